"""GET /metrics of the real daemon: read by a strict reader, and what happened is what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.access import OPERATIONS
from agent.daemon.keystore import USES
from tests.support.access import rule, text
from tests.support.daemon import GROUP, MEMBER, ROOT, STRANGER, Daemon, as_user, open_folder, running_daemon
from tests.support.prometheus import Family, parse
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
ESC = "\x1b"


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        assert running.post("/v1/sign", b"x").status == 200
        yield running


def scraped(daemon: Daemon) -> dict[str, Family]:
    reply = daemon.request("GET", "/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(reply.body.decode())


def values(families: dict[str, Family], name: str) -> dict[str, float]:
    """A family's samples by the value of their one label."""
    return {"/".join(value for _, value in labels): value for (_, labels), value in families[name].samples.items()}


def change(before: dict[str, Family], after: dict[str, Family], name: str) -> dict[str, float]:
    """What grew, and by how much."""
    old, new = values(before, name), values(after, name)
    return {label: value - old.get(label, 0) for label, value in new.items() if value != old.get(label, 0)}


def make(daemon: Daemon, name: str, use: str) -> None:
    said = json.dumps({"name": name, "use": use}).encode()
    assert daemon.post("/v1/keys", said, Content_Type="application/json").status == 201


def test_what_happened_is_counted(daemon: Daemon) -> None:
    before = scraped(daemon)
    for use in USES:
        make(daemon, f"own-{use}", use)
    for use in ("raw", "raw", "jws", "cose"):
        assert daemon.post(f"/v1/keys/own-{use}/sign", b"x").status == 200
    assert daemon.post("/v1/sign", b"x").status == 200
    assert daemon.challenge(nonce="00" * 16).status == 200
    assert daemon.request("GET", "/v1/keys/none").status == 404
    assert daemon.request("GET", "/v1/nothing").status == 404
    assert daemon.curl("-d", "x", "http://agent/v1/sign", user=as_user(STRANGER))[0] == 403
    after = scraped(daemon)
    requests = {"keys.create": len(USES), "sign": 5, "challenge": 1, "metrics": 1}
    assert change(before, after, "tee_agent_requests_total") == requests
    assert change(before, after, "tee_agent_signatures_total") == {"raw": 2, "jws": 1, "cose": 1, "bundle": 2}
    assert change(before, after, "tee_agent_refusals_total") == {"usage.key": 1, "usage.path": 1, "denied": 1}
    assert change(before, after, "tee_agent_denials_total") == {"sign": 1}
    quotes = after["tee_agent_quote_duration_seconds"].samples
    counts = {labels[0][1]: value for (name, labels), value in quotes.items() if name.endswith("_count")}
    seconds = {labels[0][1]: value for (name, labels), value in quotes.items() if name.endswith("_sum")}
    assert counts == {"signing-key": 1 + len(USES), "challenge-batch": 1}
    assert min(seconds.values()) > 0
    assert values(after, "tee_agent_named_keys") == {"": len(USES)}
    assert values(after, "tee_agent_ready") == {"": 1}
    assert values(after, "tee_agent_audit_trouble") == {"": 0}
    (records,) = values(after, "tee_agent_audit_records_total").values()
    assert records >= 1 + len(USES)
    (ends,) = values(after, "tee_agent_key_expiry_timestamp_seconds").values()
    (started,) = values(after, "process_start_time_seconds").values()
    assert 0 < ends - started <= 24 * 3600


def test_a_batch_counts_each_of_its_signatures(daemon: Daemon) -> None:
    before = scraped(daemon)
    make(daemon, "many", "raw")
    body = json.dumps({"payloads": [{"data": "eA=="}] * 17}).encode()
    reply = daemon.post("/v1/keys/many/sign", body, Content_Type="application/vnd.tee-agent.batch+json")
    assert reply.status == 200
    assert change(before, scraped(daemon), "tee_agent_signatures_total") == {"raw": 17}


def test_nothing_that_a_caller_chooses_becomes_a_label(daemon: Daemon) -> None:
    before = scraped(daemon)
    for word in ("chosen", "cho%22sen%5C%0A", "x" * 200):
        for path in (f"/v1/sign?context={word}", f"/v1/keys/{word}", f"/{word}", f"/v1/keys/{word}/sign?format={word}"):
            for method in ("GET", "POST", "DELETE", "PATCH"):
                daemon.request(method, path, b"chosen")
        daemon.post("/v1/keys", json.dumps({"name": word, "use": word}).encode(), Content_Type="application/json")
    after = scraped(daemon)
    assert "chosen" not in daemon.request("GET", "/metrics").body.decode()
    assert set(after) == set(before)
    known = {*OPERATIONS, *USES, "signing-key", "challenge-batch", "0.1.0"}
    for name, family in after.items():
        for _, labels in family.samples:
            for label, value in labels:
                assert label in ("operation", "use", "purpose", "code", "version"), name
                assert value in known or (label == "code" and re.fullmatch(r"(usage|format|denied)[a-z.-]*", value))


def test_hardware_that_fails_is_seen(daemon: Daemon, simulator: Simulator) -> None:
    before = scraped(daemon)
    simulator.fault("eio:*")
    try:
        assert daemon.challenge(nonce="00" * 16).status == 503
    finally:
        simulator.clear()
    found = change(before, scraped(daemon), "tee_agent_quote_failures_total")
    assert set(found) == {"challenge-batch"}


def test_it_is_an_operation_of_the_policy(simulator: Simulator) -> None:
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        (folder / "policy.d" / "10.toml").write_text(
            text(rule("watch", who={"user": str(MEMBER)}, operations="metrics"))
        )
        with running_daemon(simulator, folder) as daemon:
            member = as_user(MEMBER, GROUP)
            assert daemon.curl("http://agent/metrics", user=member)[0] == 200
            for path in ("/v1/status", "/v1/keys", "/v1/openapi.json"):
                assert daemon.curl(f"http://agent{path}", user=member)[0] == 403
            assert daemon.curl("http://agent/metrics", user=as_user(STRANGER))[0] == 403


def test_the_manual_names_every_metric(daemon: Daemon) -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    section = page[page.index("## GET /metrics") : page.index("## GET /v1/openapi.json")]
    named = set(re.findall(r"`((?:tee_agent|process)_[a-z_]+?)(?:_sum)?(?:\{[a-z]+\})?`", section))
    assert named == set(scraped(daemon))
