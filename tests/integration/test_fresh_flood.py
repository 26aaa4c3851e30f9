"""Quotes are scarce and change: one user's flood delays another by two of them, a new TCB reaches all keys at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemon import GROUP, MEMBER, Daemon, as_user, open_folder, running_daemon
from tests.support.fresh import NONCE, make, nonce_of, waiting
from tests.support.recording import Record, recording_simulator
from tests.support.simulator import Simulator, running_simulator
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
SHARE = 400
"""Challenges in a quote, and waiting of one user."""


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


FLOOD = """
import json, os, socket, sys, threading, time
path, kind = sys.argv[1], sys.argv[2]
def send(sock, method, target, body, media):
    head = f"{method} {target} HTTP/1.1\\r\\nHost: a\\r\\nContent-Type: {media}\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    sock.sendall(head.encode() + body)
def flood(number):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    while True:
        if kind == "keys":
            name = f"k{number}-{os.urandom(4).hex()}"
            send(sock, "POST", "/v1/keys", json.dumps({"name": name, "use": "raw"}).encode(), "application/json")
        else:
            wishes = [{"nonce": os.urandom(32).hex()} for _ in range(100)]
            body = json.dumps({"challenges": wishes}).encode()
            send(sock, "POST", "/v1/challenge", body, "application/vnd.tee-agent.batch+json")
        answer = sock.recv(1 << 20)
        if not answer:
            return
        if b" 20" not in answer[:12]:
            time.sleep(0.2)
            continue
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\\r\\n")[0])
        left = length - len(answer.split(b"\\r\\n\\r\\n", 1)[1])
        while left > 0:
            left -= len(sock.recv(1 << 20))
for number in range(24):
    threading.Thread(target=flood, args=(number,), daemon=True).start()
print("flooding", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kinds", [("challenges",), ("keys",), ("challenges", "keys")], ids=["trees", "keys", "both"])
def test_one_user_who_floods_delays_anothers_challenge_by_two_quotes_at_the_most(
    pki_state: Path, kinds: tuple[str, ...]
) -> None:
    """Counted in what the hardware gives from the moment on at which the question waits; until then it stands still.
    tests/unit/daemon/test_shares.py has it for each kind of quote that may be under way."""
    with (
        open_folder() as folder,
        recording_simulator(folder, pki_state) as (simulator, record),
        running_daemon(simulator, folder, challenge_batch_max=SHARE) as daemon,
    ):
        daemon.post("/v1/sign", b"x")
        simulator.fault("rate:1:1")
        floods = [flood(daemon, kind) for kind in kinds]
        held = SHARE if "challenges" in kinds else 0
        try:
            awaited(record.lines, lambda lines: len(lines) > 4)
            for number in range(3):
                assert quotes_before(simulator, record, daemon, nonce_of(number), held) <= 2
        finally:
            simulator.clear()
            for process in floods:
                process.kill()
                process.communicate()


def quotes_before(simulator: Simulator, record: Record, daemon: Daemon, nonce: bytes, held: int) -> int:
    """How many quotes come before that of a challenge, which finds ``held`` of the other user's waiting."""
    simulator.fault("throttle:1:600")
    with ThreadPoolExecutor(1) as threads:
        try:
            asked = threads.submit(daemon.challenge, nonce=nonce.hex())
            awaited(lambda: waiting(daemon), lambda count: count > held)
            before = len(record.lines())
        finally:
            simulator.clear()
            simulator.fault("rate:1:1")
        bundle = daemon.verify(asked.result().body, b"", nonce=nonce).bundle
    return record.lines().index(bundle.report_data().value.hex()) - before


def flood(daemon: Daemon, kind: str) -> subprocess.Popen[bytes]:
    argv = [*as_user(MEMBER, GROUP), sys.executable, "-I", "-c", FLOOD, str(daemon.socket), kind]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"flooding\n"
    return process


def tcb(daemon: Daemon, which: str) -> bytes:
    reply = daemon.post("/v1/sign", b"") if which == "agent" else daemon.post(f"/v1/keys/{which}/sign", b"")
    blob: bytes = daemon.verify(reply.body, b"").bundle.attachments.blob
    return blob


def test_keys_get_new_evidence_at_once_when_the_tcb_changes(simulator: Simulator) -> None:
    with open_folder() as folder, running_daemon(simulator, folder) as daemon:
        for name in ("one", "two"):
            assert make(daemon, name).status == 201
        names = ("agent", "one", "two")
        before = {name: tcb(daemon, name) for name in names}
        ids = [key["id"] for key in daemon.request("GET", "/v1/keys").json["keys"]]
        daemon.challenge(nonce=NONCE.hex())
        assert {name: tcb(daemon, name) for name in names} == before
        simulator.fault("tcb")
        try:
            daemon.challenge(nonce=NONCE.hex())
            awaited(lambda: all(tcb(daemon, name) != before[name] for name in names))
        finally:
            simulator.clear()
        after = [key["id"] for key in daemon.request("GET", "/v1/keys").json["keys"]]
        assert (after[0] != ids[0], after[1:]) == (True, ids[1:])
        audit = (folder / "audit" / "audit.jsonl").read_text()
        assert audit.count('"kind":"tcb.changed"') == 1
