"""Releases when the service is down, lies, or wraps to somebody else; and what the fetcher's memory never has."""

from __future__ import annotations

import base64
import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.core.model import Secret
from agent.sealing import Sealer
from agent.unseal import WrappingKey
from tests.support.access import rule
from tests.support.daemon import GROUP, Daemon, Reply, as_user, open_folder, running_daemon
from tests.support.fake_tas import API_KEY, SECRET, FakeTas, Script, answer, closed_port, raw, wrap
from tests.support.fake_tas import http as message
from tests.support.processes import stopped
from tests.support.released import World, running_world, tas_table, write_rules
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import PATIENCE, awaited

pytestmark = [pytest.mark.fuse, pytest.mark.root]
SECRETS = """
[secrets.db]
policy_id = "db-1"
"""
SEALING = """
[sealing]
root = "tas"
policy_id = "seal"
"""


@contextmanager
def daemon_of(simulator: Simulator, url: str, deadline: int, request: int, tables: str = SECRETS) -> Iterator[Daemon]:
    """One whose service is at ``url``, with so many seconds for a release and for one request of it."""
    with open_folder() as folder:
        (folder / "api-key").write_text(API_KEY)
        write_rules(folder, rule("all", who={"group": str(GROUP)}, operations="secret", secrets="*"))
        limits = {"deadline_seconds": deadline, "request_seconds": request, "connect_seconds": 1, "attempts": 100}
        more = tas_table(url, folder / "api-key", "", **limits)
        with running_daemon(simulator, folder, more + tables) as daemon:
            yield daemon


@pytest.fixture(scope="module")
def sim(pki_state: Path) -> Iterator[Simulator]:
    """Where the signer's user may read the certificates."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def fake(sim: Simulator) -> Iterator[tuple[FakeTas, Daemon]]:
    with FakeTas() as tas, daemon_of(sim, tas.url, 10, 10) as daemon:
        yield tas, daemon


def refused(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["code"]


OTHER_KEY = WrappingKey().public_der
TAMPERED = {**wrap(OTHER_KEY, SECRET), "tag": "A" * 22 + "=="}


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (answer(200, {"secret_key": wrap(OTHER_KEY, SECRET)}), (502, "secret.wrapped-key")),
        (answer(200, {"secret_key": wrap(OTHER_KEY, SECRET, "AES-KWP")}), (502, "secret.wrapped-key")),
        (answer(200, {"secret_key": TAMPERED}), (502, "secret.wrapped-key")),
        (answer(200, {"secret_key": {**TAMPERED, "iv": ""}}), (502, "protocol.answer")),
        (answer(200, {"secret_key": "x"}), (502, "protocol.answer")),
        (answer(200, {}), (502, "protocol.answer")),
        (raw(message(200, b"\xff garbage")), (502, "protocol.answer")),
        (raw(message(200, b"{}", length=1)), (502, "protocol.answer")),
        (answer(302, {}, "Location: http://127.0.0.1:1/"), (502, "protocol")),
        (answer(400, {"error": "TEE verification failed"}), (502, "secret.refused")),
        (answer(401, {"error": "Unauthorized"}), (502, "secret.refused")),
        (answer(403, {}), (502, "secret.refused")),
        (raw(message(200, b"x" * (1 << 17))), (503, "transport.too-large")),
    ],
    ids=range(13),
)
def test_a_service_that_lies_or_says_no(
    fake: tuple[FakeTas, Daemon], script: Script, expected: tuple[int, str]
) -> None:
    tas, daemon = fake
    tas.secret_script.append(script)
    # Each as another user: one may not ask so often.
    user = as_user(70_000 + len(tas.seen), gid=GROUP)
    status, said = daemon.curl("-X", "POST", "http://agent/v1/secrets/db", user=user)
    assert (status, json.loads(said)["code"]) == expected
    assert not tas.secret_script


def test_what_may_help_is_tried_again(fake: tuple[FakeTas, Daemon]) -> None:
    tas, daemon = fake
    before = len(tas.seen)
    tas.secret_script.extend([answer(503, {}), answer(401, {"error": "Invalid or expired nonce"}), raw(b"")])
    assert daemon.post("/v1/secrets/db").body == SECRET
    asked = [one.json for one in tas.seen[before:] if one.path.endswith("get_secret")]
    assert len(asked) == 4
    assert len({one["nonce"] for one in asked}) == len({one["tee-evidence"] for one in asked}) == 4
    assert {one["policy-id"] for one in asked} == {"db-1"}


def test_a_service_that_is_down_is_said_in_words(sim: Simulator) -> None:
    with closed_port() as port, daemon_of(sim, f"http://127.0.0.1:{port}", 3, 1, SECRETS + SEALING) as daemon:
        reply = daemon.post("/v1/secrets/db")
        assert refused(reply) == (504, "transport.deadline")
        assert re.search(r"127\.0\.0\.1|refused", reply.json["detail"] + reply.json.get("hint", ""))
        for _ in range(2):
            assert refused(daemon.post("/v1/seal", b"data")) == (504, "transport.deadline")
        trouble = daemon.status()["sealing"]["trouble"]
        assert trouble["code"] == "transport.deadline"
        # Everything else goes on.
        assert daemon.post("/v1/sign", b"x").status == 200
        log = daemon.folder / "audit" / "audit.jsonl"
        wanted = ('"what":"root of sealed data"', '"what":"release of the secret db"')
        awaited(log.read_text, lambda text: all(what in text for what in wanted))


def test_a_stop_waits_for_no_release(sim: Simulator) -> None:
    with FakeTas() as tas, daemon_of(sim, tas.url, 300, 300) as daemon:
        tas.secret_script.append(lambda _: tas.drip(b"HTTP/1.1 200 OK\r\n"))
        waiting = threading.Thread(target=left_waiting, args=(daemon,))
        waiting.start()
        awaited(lambda: any(one.path.endswith("get_secret") for one in list(tas.seen)))
        assert daemon.terminate() == 0
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def left_waiting(daemon: Daemon) -> None:
    """It may get an answer that says why, or none."""
    with suppress(http.client.RemoteDisconnected):
        assert daemon.post("/v1/secrets/db").status in (502, 503)


def memory(pid: int) -> bytes:
    """All that a process has written or may write. It stands still: a thread that ends takes its stack with it."""
    parts = []
    with stopped(pid), Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            low, high = (int(one, 16) for one in span.split("-"))
            if mode.startswith("rw") and "[vvar" not in line:
                mem.seek(low)
                parts.append(mem.read(high - low))
    return b"\0".join(parts)


def forms(secret: bytes) -> list[bytes]:
    """As a process could hold it: the beginning is enough to find, and what was freed is often overwritten there."""
    return [secret[8:24], secret.hex()[16:48].encode(), base64.b64encode(secret)[4:28]]


def test_no_secret_is_in_the_fetcher_or_where_anybody_could_read_it(pki_state: Path) -> None:
    with running_world("snp", pki_state) as world:
        assert world.daemon.post("/v1/seal", b"x").status == 200
        for _ in range(3):
            assert world.daemon.post("/v1/secrets/db").body == world.service.secret("db")
        sealer = Sealer.from_tas(Secret(world.service.secret("sealing")), "sealing-1")
        found = memory(world.daemon.role("signer"))
        # The search finds what is there: the root in the signer, and the policy's name in the fetcher.
        assert bytes(sealer._root) in found
        theirs = memory(world.daemon.role("fetcher"))
        assert b"sealing-1" in theirs
        for name in ("sealing", "db"):
            for form in forms(world.service.secret(name)):
                assert form not in theirs, name
        assert bytes(sealer._root) not in theirs
        assert bytes(sealer._root) not in memory(world.daemon.role("quoter"))
        nowhere_to_read(world, [*forms(world.service.secret("db")), *forms(bytes(sealer._root))])


def nowhere_to_read(world: World, wanted: list[bytes]) -> None:
    """Arguments, environments, the journal, every file of the daemon's but the service's own."""
    seen = [world.daemon.log.encode()]
    for role in ("signer", "fetcher", "quoter"):
        process = Path(f"/proc/{world.daemon.role(role)}")
        seen += [(process / "cmdline").read_bytes(), (process / "environ").read_bytes()]
    for path in world.daemon.folder.rglob("*"):
        if path.is_file() and world.service.state not in path.parents and world.simulator.mount not in path.parents:
            seen.append(path.read_bytes())
    assert any(b"secret.released" in text for text in seen)
    assert not [form for form in wanted for text in seen if form in text]
