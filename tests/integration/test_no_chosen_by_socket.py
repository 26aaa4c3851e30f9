"""Invariants I2 and I3 at the sockets between our processes and at the one for ssh (test_no_chosen_report_data.py).

At last the fetcher's own call shows that the search finds what it looks for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core import canonical
from agent.core.algorithm import ALGORITHMS
from agent.core.sshsig import FileSignature
from agent.core.sshwire import PublicKey, strings
from agent.daemon.names import ROLES, socket_path
from tests.support import ssh
from tests.support.chosen import CHOSEN, FIELDS, KEYS, NONCE, ask, forbidden, forms, recorded_daemon
from tests.support.daemon import FETCHER, GROUP, MEMBER, SIGNER, STRANGER, Daemon, as_user, dial
from tests.support.recording import Record

pytestmark = pytest.mark.fuse

SPKIS = [one.spki_prefix + (CHOSEN * 2)[: one.key_size] for one in ALGORITHMS.values()]
"""Of the right form, with the chosen bytes for a key: the quoter knows no curves, and binds them as what they are."""
METHODS = (
    "tas",
    "signing_key",
    "challenge_batch",
    "collect",
    "compat",
    "quote",
    "report",
    "get_quote",
    "raw",
    "state",
    "announce",
    "derived_key",
    "release",
    "head",
)


@pytest.fixture(scope="module")
def recorder(pki_state: Path) -> Iterator[tuple[Daemon, Record]]:
    with recorded_daemon(pki_state) as found:
        yield found


def frames() -> Iterator[bytes]:
    """Requests to our own processes: every method, right and wrong fields, the chosen bytes everywhere."""
    b64 = [base64.b64encode(key).decode() for key in (*KEYS, CHOSEN)]
    right: list[dict[str, Any]] = [
        {"nonce": nonce, "wrapping_key": key} for nonce in (NONCE, CHOSEN.hex()) for key in b64
    ]
    right += [{"wrapping_key": key} for key in b64]
    right += [{"what": what, "wrapping_key": key} for what in ("sealing", "tas", CHOSEN.hex()) for key in b64]
    right += [{"nonce": NONCE}, {"nonce": CHOSEN.hex()}, {"tree_size": 1, "root": CHOSEN.hex()}]
    right += [
        {"algorithm": algorithm, "use": use, "spki": key, "statement_digest": CHOSEN.hex()}
        for algorithm in (*ALGORITHMS, "", "tas")
        for use in ("bundle", "tas")
        for key in (*b64, *map(canonical.b64, SPKIS))
    ]
    right += [{field: form} for field in (*FIELDS, "document") for form in forms()]
    for method in METHODS:
        for params in right:
            body = json.dumps({"method": method, "params": params}).encode()
            yield struct.pack(">I", len(body)) + body
    yield CHOSEN
    yield struct.pack(">I", len(CHOSEN)) + CHOSEN
    yield struct.pack(">I", 1 << 31) + CHOSEN


@pytest.mark.parametrize("uid", [SIGNER, STRANGER, MEMBER])
def test_the_sockets_between_our_processes(recorder: tuple[Daemon, Record], uid: int) -> None:
    daemon, record = recorder
    before = len(record.lines())
    requests = list(frames())
    answers = [
        answer
        for role in ROLES
        for answer in ask(socket_path(daemon.runtime, role), as_user(uid, GROUP), requests)
        if role != "signer"
    ]
    seen = record.lines()[before:]
    assert len(answers) == 2 * len(requests)
    evidence = [answer for answer in answers if '"blob"' in answer]
    if uid == SIGNER:
        # Its own two purposes, tagged: each algorithm with the one key that has its form, and a tree.
        assert len(evidence) == len(seen) == len(ALGORITHMS) + 1
        assert sum('"denied.peer"' in answer for answer in answers) > 100
    else:
        assert (evidence, seen, set(answers)) == ([], [], {""})
    assert not forbidden() & set(seen)


def ssh_messages(key: PublicKey, data: bytes) -> Iterator[bytes]:
    """Every type of message, and every place of those that mean something, with the chosen bytes."""
    yield from (ssh.framed(bytes([kind]) + data) for kind in range(256))
    yield from (ssh.framed(bytes([kind]) + strings(data, data, data)) for kind in range(256))
    yield from (ssh.signing(key.blob, data), ssh.signing(data[:256], ssh.file()), ssh.extension(data, data))
    for digest, name in ((CHOSEN, "sha512"), (bytes.fromhex(NONCE), "sha256")):
        yield ssh.signing(key.blob, FileSignature(data.hex()[:256], name, digest).encode())
    yield ssh.signing(key.blob, ssh.login(key, session=data[:64], user=data.hex()[:64].encode()))
    bound = ssh.login(key, session=CHOSEN, method=ssh.HOSTBOUND, host_key=data)
    yield ssh.signing(key.blob, bound)
    bind = strings(data, data[:64], data) + b"\0"
    yield ssh.extension(b"session-bind@openssh.com", bind)


def test_the_socket_for_ssh(recorder: tuple[Daemon, Record]) -> None:
    """Signatures, over digests and sessions that were chosen; evidence, over nothing at all."""
    daemon, record = recorder
    said = json.dumps({"name": "thief", "use": "ssh"}).encode()
    made = daemon.post("/v1/keys", said, Content_Type="application/json").json
    key = PublicKey.of(base64.b64decode(made["spki"]))
    before = len(record.lines())
    chosen = (CHOSEN, NONCE.encode(), NONCE.encode() + KEYS[0], bytes.fromhex(NONCE))
    answers = [one for data in chosen for one in ssh.ask(daemon.runtime / "ssh.sock", *ssh_messages(key, data))]
    kinds = [answer[0] for answer in answers]
    assert kinds.count(14) == 4 * 4
    assert set(kinds) <= {5, 12, 14, 28}
    assert record.lines()[before:] == []


def said(daemon: Daemon, uid: int, method: str, params: dict[str, Any]) -> str:
    """What the quoter answers this user."""
    frame = json.dumps({"method": method, "params": params}).encode()
    (answer,) = ask(socket_path(daemon.runtime, "quoter"), as_user(uid), [struct.pack(">I", len(frame)) + frame])
    return answer


def test_the_search_finds_what_only_the_fetcher_may_ask_for(recorder: tuple[Daemon, Record]) -> None:
    """Now the list does hold the service's form, and only that: over a wrapping key that the signer announced."""
    daemon, record = recorder
    before = len(record.lines())
    own = base64.b64encode(KEYS[0] + b"of its own").decode()
    announced = {"wrapping_key": base64.b64encode(KEYS[0]).decode()}
    for stolen in (own, announced["wrapping_key"]):
        assert '"denied.peer"' in said(daemon, SIGNER, "tas", {"nonce": NONCE, "wrapping_key": stolen})
    assert '"denied.peer"' in said(daemon, FETCHER, "announce", {"wrapping_key": own})
    assert '"denied.wrapping-key"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, "wrapping_key": own})
    assert record.lines()[before:] == []
    assert said(daemon, SIGNER, "announce", announced) == '{"result": {}}'
    assert '"denied.wrapping-key"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, "wrapping_key": own})
    assert '"blob"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, **announced})
    wanted = hashlib.sha512(NONCE.encode() + KEYS[0]).hexdigest()
    assert forbidden() & set(record.lines()[before:]) == {wanted}


def test_a_half_frame_is_dropped(recorder: tuple[Daemon, Record]) -> None:
    daemon, _ = recorder
    with dial(socket_path(daemon.runtime, "quoter")) as sock:
        sock.sendall(b"\0\0\0\x10{")
        assert sock.recv(100) == b""
