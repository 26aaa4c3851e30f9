"""POST /v1/verify at the real daemon: the command's verdict, in a process without keys that can open nothing."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core import canonical
from agent.daemon import verifier
from agent.daemon.verifier import ALL, AT_ONCE, EACH
from agent.verify import question
from tests.support.access import rule, text
from tests.support.daemon import CLI, GROUP, MEMBER, ROOT, STRANGER, Daemon, Reply, as_user, open_folder, running_daemon
from tests.support.processes import children, name
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        yield running
        assert "Traceback" not in running.log, running.log


def file(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode()}


def ask(daemon: Daemon, **asked: Any) -> Reply:
    return daemon.post("/v1/verify", json.dumps(asked).encode(), Content_Type="application/json")


def made(daemon: Daemon) -> dict[str, tuple[bytes, dict[str, Any], list[str]]]:
    """A document of each kind: itself, what a question needs beside it, and the command's words for that."""
    found: dict[str, tuple[bytes, dict[str, Any], list[str]]] = {
        "bundle": (daemon.post("/v1/sign?context=a", b"x").body, {"payload": file(b"x")}, ["--payload", "payload"]),
        "fresh": (daemon.challenge(nonce="ab" * 16).body, {"nonce": "ab" * 16}, ["--nonce", "ab" * 16]),
    }
    (daemon.folder / "payload").write_bytes(b"x")
    for use in ("raw", "jws", "cose", "eat"):
        said = json.dumps({"name": use, "use": use}).encode()
        assert daemon.post("/v1/keys", said, Content_Type="application/json").status in (201, 409)
        document = daemon.request("GET", f"/v1/keys/{use}/attestation").body
        (daemon.folder / f"{use}.key").write_bytes(document)
        found[f"key {use}"] = (document, {"use": use}, ["--use", use])
        if use in ("jws", "cose"):
            signed = daemon.post(f"/v1/keys/{use}/sign", b"x").body
            beside = {"key_document": file(document), "payload": file(b"x")}
            found[use] = (signed, beside, ["--key-document", f"{use}.key", "--payload", "payload"])
    for form in ("json", "cbor"):
        body = json.dumps({"nonce": "00" * 8, "form": form}).encode()
        token = daemon.post("/v1/keys/eat/sign", body, Content_Type="application/json").body
        found[f"eat {form}"] = (token, {"nonce": "00" * 8}, ["--nonce", "00" * 8])
    return found


def test_the_verdict_is_the_command_s(daemon: Daemon) -> None:
    at = canonical.rfc3339(datetime.now(UTC))
    for kind, (document, beside, words) in made(daemon).items():
        (daemon.folder / "document").write_bytes(document)
        argv = [*CLI, "verify", str(daemon.folder / "document"), "--any-workload", "--at", at, "--json"]
        argv += [str(daemon.folder / word) if (daemon.folder / word).exists() else word for word in words]
        said = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
        reply = ask(daemon, document=file(document), any_workload=True, at=at, **beside)
        assert reply.json == json.loads(said.stdout), kind
        # The simulator's root is nobody's: what only it vouches for is refused, with a status that says so too.
        assert (reply.status, said.returncode) == (422, 65), kind
        assert reply.json["error"]["code"] == "verify.untrusted-root", kind
        assert reply.headers["Content-Type"] == "application/json"
        if document[:1] in b"{e":
            again = ask(daemon, document={"text": document.decode()}, any_workload=True, at=at, **beside)
            assert again.json == reply.json


def test_no_workload_no_verdict(daemon: Daemon) -> None:
    bundle = daemon.post("/v1/sign", b"x").body
    reply = ask(daemon, document=file(bundle))
    assert (reply.status, reply.json["code"]) == (400, "usage")
    assert "any_workload" in reply.json["hint"]
    for root in ("trust_root", "anchors", "root", "collateral", "allow"):
        reply = ask(daemon, document=file(bundle), any_workload=True, **{root: "x"})
        assert (reply.status, reply.json["code"]) == (400, "format")


def test_bounds(daemon: Daemon) -> None:
    big = b'{"document": {"text": "' + b"x" * question.MAX_BYTES
    reply = daemon.post("/v1/verify", big, Content_Type="application/json")
    assert (reply.status, reply.json["code"]) == (413, "format.oversized")
    assert daemon.post("/v1/verify", b"{}", Content_Type="text/plain").status == 400
    for body in (b"[" * 100_000, b"{" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"null", b'{"document": 1e999}'):
        assert daemon.post("/v1/verify", body, Content_Type="application/json").json["code"].startswith("format")


def test_it_is_an_operation_of_the_policy(simulator: Simulator) -> None:
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        (folder / "policy.d" / "10.toml").write_text(text(rule("v", who={"user": str(MEMBER)}, operations="verify")))
        with running_daemon(simulator, folder) as daemon:
            words = ["--json", '{"document": {"text": "x"}, "any_workload": true}', "http://agent/v1/verify"]
            assert daemon.curl(*words, user=as_user(MEMBER))[0] == 422
            assert daemon.curl("-d", "x", "http://agent/v1/sign", user=as_user(MEMBER, GROUP))[0] == 403
            assert daemon.curl(*words, user=as_user(STRANGER))[0] == 403


def keeper(daemon: Daemon) -> int:
    """The process that puts another server in the place of one that ended."""
    (pid,) = children(daemon.role("signer"))
    return pid


def server(daemon: Daemon) -> int:
    """The process that forks for each question."""
    (pid,) = awaited(lambda: children(keeper(daemon)))
    return pid


@pytest.mark.parametrize(("process", "called"), [(keeper, verifier.KEEPER), (server, verifier.SERVER)])
def test_the_processes_have_no_more_than_they_need(
    daemon: Daemon, process: Callable[[Daemon], int], called: str
) -> None:
    pid, signer = process(daemon), daemon.role("signer")
    status = Path(f"/proc/{pid}/status").read_text()
    assert name(pid) == called
    assert {int(found, 16) for found in re.findall(r"^Cap\w+:\t([0-9a-f]+)$", status, re.MULTILINE)} == {0}
    assert "NoNewPrivs:\t1" in status
    assert Path(f"/proc/{pid}/ns/net").readlink() == Path(f"/proc/{signer}/ns/net").readlink()
    assert Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    log = str(daemon.folder / "daemon.log")
    # The log, and the one socket to the signer: no listener, no audit log, no lifeline.
    assert sorted(link for link in links if not link.startswith("socket:")) == ["/dev/null", "/dev/null", log]
    assert len([link for link in links if link.startswith("socket:")]) == 1


def test_what_takes_too_long_ends_alone(daemon: Daemon) -> None:
    """The processes for questions are stopped: nobody else is, and who asked is told."""
    pid, bundle = server(daemon), daemon.post("/v1/sign", b"x").body
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(EACH + 1) as threads:
            asked = [threads.submit(ask, daemon, document=file(bundle), any_workload=True) for _ in range(EACH + 1)]
            # One more of the same user finds no room.
            done, waiting = wait(asked, return_when=FIRST_COMPLETED)
            (reply,) = (future.result() for future in done)
            assert reply.status == 429
            assert (reply.json["code"], reply.headers["Retry-After"]) == ("server.budget", "1")
            assert daemon.post("/v1/sign", b"x").status == 200
            os.kill(pid, signal.SIGCONT)
            assert [future.result().status for future in waiting] == [422] * EACH
    finally:
        os.kill(pid, signal.SIGCONT)
    assert AT_ONCE < EACH < ALL


def test_many_at_once_all_get_theirs(daemon: Daemon) -> None:
    bundle = daemon.post("/v1/sign", b"x").body

    def once(_: int) -> int:
        while (reply := ask(daemon, document=file(bundle), any_workload=True)).status == 429:
            pass
        return reply.status

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(once, range(60))) == {422}
    awaited(lambda: not children(server(daemon)))  # the last one may be about to end
