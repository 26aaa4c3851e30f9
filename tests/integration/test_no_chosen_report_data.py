"""Invariants I2 and I3: nobody gets evidence over REPORT_DATA of their choosing, whatever they ask.

The simulated hardware writes down every REPORT_DATA that ever reaches it. Every endpoint of every socket and every
command gets the chosen bytes in every place and form that we could think of; then the list is searched for them and
for what an attestation service would take from a thief. At last the fetcher's own call shows that the search finds.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.cli import COMMANDS, common_options
from agent.core import canonical, compact
from agent.core.algorithm import ALGORITHMS
from agent.core.model import Tee
from agent.core.sshsig import FileSignature
from agent.core.sshwire import PublicKey, strings
from agent.daemon import bulk
from agent.daemon.api import DIGEST_TYPE, ROUTES
from agent.daemon.keystore import USES
from agent.daemon.names import ROLES, socket_path
from tests.support import ssh
from tests.support.daemon import (
    FETCHER,
    GROUP,
    MEMBER,
    ROOT,
    SIGNER,
    STRANGER,
    Daemon,
    as_user,
    dial,
    open_folder,
    running_daemon,
)
from tests.support.simulator import Simulator

pytestmark = pytest.mark.fuse

CHOSEN = hashlib.sha512(b"chosen by the thief").digest()
NONCE = hashlib.sha256(b"the service's nonce").hexdigest()
FIELDS = ("report_data", "reportData", "inblob", "user_data", "data", "nonce", "challenge", "digest", "root", "payload")
NOT_TRIED = ("config", "json", "quiet", "follow")
"""Options that every command has; and following a file, which never ends and has no value to choose."""
QUERIES = (
    "",
    f"?report_data={CHOSEN.hex()}",
    f"?nonce={NONCE}",
    f"?context={CHOSEN.hex()}",
    "?fresh=true",
    f"?fresh=true&nonce={NONCE}",
    f"?fresh=true&nonce={CHOSEN.hex()}&context={NONCE}",
)
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

RECORDING = """
import sys
from sim import cli
from sim.psp import SecureProcessor
log, original = open(sys.argv.pop(1), "a", buffering=1), SecureProcessor.report
def report(self, report_data, *rest, **named):
    log.write(report_data.hex() + "\\n")
    return original(self, report_data, *rest, **named)
SecureProcessor.report = report
sys.exit(cli.main(sys.argv[1:]))
"""
ASK = """
import socket, sys
for line in sys.stdin:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(sys.argv[1])
        try:
            sock.sendall(bytes.fromhex(line))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            answer = b""
    print(answer[4:].decode("utf-8", "replace"), flush=True)
"""
COMMAND_BY_COMMAND = """
import json, os, sys
from agent.cli import main
lines, found = json.load(sys.stdin), []
out = os.dup(1)
sys.stdin = open(os.devnull)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for line in lines:
    found.append(main(line))
os.write(out, json.dumps(found).encode())
"""


def wrapping_keys() -> list[bytes]:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return [
        public.public_bytes(Encoding.DER, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        CHOSEN,
    ]


KEYS = wrapping_keys()
SPKIS = [one.spki_prefix + (CHOSEN * 2)[: one.key_size] for one in ALGORITHMS.values()]
"""Of the right form, with the chosen bytes for a key: the quoter knows no curves, and binds them as what they are."""


def forbidden() -> set[str]:
    """What a thief would like to see: the bytes themselves, bare nonces, and the service's form over any of the keys."""
    nonces = (NONCE.encode(), bytes.fromhex(NONCE), CHOSEN.hex().encode(), CHOSEN)
    wanted = {CHOSEN, NONCE.encode(), bytes.fromhex(NONCE) + bytes(32), hashlib.sha512(CHOSEN).digest()}
    wanted |= {hashlib.sha512(nonce).digest() for nonce in nonces}
    wanted |= {hashlib.sha512(nonce + key).digest() for nonce in nonces for key in KEYS}
    return {value.hex() for value in wanted}


@pytest.fixture(scope="module")
def recorder(pki_state: Path) -> Iterator[tuple[Daemon, Path]]:
    with open_folder() as folder:
        log, mount, export = folder / "report-data", folder / "tsm", folder / "endorsements"
        words = ["--tee", "snp", "--mount", str(mount), "--state", str(pki_state), "--export", str(export)]
        words += ["--foreground", "--ready-fd", "1"]
        argv = [sys.executable, "-c", RECORDING, str(log), *words]
        with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            simulator = Simulator(Tee.SNP, process, mount, export, folder / "none")
            try:
                with running_daemon(simulator, folder, ssh_socket=True) as daemon:
                    assert daemon.post("/v1/sign").status == 200  # its own key has its evidence now
                    yield daemon, log
            finally:
                process.terminate()
                process.wait(30)


def lines(log: Path) -> list[str]:
    """Every REPORT_DATA that the hardware was given, as hex, in order."""
    return log.read_text().splitlines()


def forms() -> list[Any]:
    """The chosen bytes and the nonce, as JSON could carry them."""
    return [
        CHOSEN.hex(),
        CHOSEN.hex().upper(),
        "0x" + CHOSEN.hex(),
        base64.b64encode(CHOSEN).decode(),
        list(CHOSEN),
        NONCE,
        NONCE.encode().hex(),
        CHOSEN.decode("latin-1"),
    ]


def paths(daemon: Daemon) -> list[str]:
    """Every path; those of named keys with a key of each use behind them, and with the chosen bytes for a name."""
    names: list[str] = []
    for use in USES:
        names.append(f"own-{use}" if names else "own")
        said = json.dumps({"name": names[-1], "use": use, "algorithm": "ECDSA-P256"}).encode()
        assert daemon.post("/v1/keys", said, Content_Type="application/json").status == 201
    names += [CHOSEN.hex()[:63], NONCE]
    digests = [daemon.post("/v1/sign", CHOSEN, Accept=compact.MEDIA_TYPE).json["attachments"], CHOSEN.hex()]
    values = {"{name}": names, "{digest}": digests}
    found = []
    for path in ROUTES:
        variable = next((name for name in values if name in path), "")
        found += [path.replace(variable, value) for value in values[variable]] if variable else [path]
    return found


def documents() -> Iterator[dict[str, Any]]:
    for form in forms():
        for field in FIELDS:
            yield {field: form}
            yield {"nonce": NONCE, field: form}
            yield {"nonce": NONCE, "claims": {field: form}, "context": field}
        yield {"nonce": NONCE, "payload": {"alg": "sha-512", "digest": form, "size": 64}}
        yield {"payloads": [{"data": form}, {"digest": {"alg": "sha-512", "digest": CHOSEN.hex(), "size": 64}}]}
        yield {"payloads": [{"digest": {"alg": "sha-512", "digest": form, "size": 64}}]}
        yield {"nonce": NONCE, "context": form, "audience": form}
        yield {"challenges": [{"nonce": form}]}
        yield {"challenges": [{"nonce": CHOSEN.hex(), "payload": {"alg": "sha-512", "digest": form, "size": 64}}]}
        yield {"name": "other", "use": "raw", "algorithm": form}
        yield {"name": form, "use": form}
        yield {"overlap_seconds": form}


def test_http_endpoints(recorder: tuple[Daemon, Path]) -> None:
    daemon, log = recorder
    before = len(lines(log))
    made = fresh = 0
    found = (*paths(daemon), "/v1/quote", "/v1/evidence", "/quote", "/v0/sign", "/v1/tas")
    for path in found:
        for method in ("GET", "POST", "PUT"):
            for query in QUERIES:
                for body in (CHOSEN, NONCE.encode(), NONCE.encode() + KEYS[0]):
                    daemon.request(method, path + query, body)
        for document in documents():
            for media_type in ("application/json", DIGEST_TYPE, bulk.TYPE):
                reply = daemon.post(path, json.dumps(document).encode(), Content_Type=media_type)
                made += reply.status == 200
        for query in QUERIES:
            said = {"alg": "sha-512", "digest": CHOSEN.hex(), "size": 64}
            fresh += daemon.post(path + query, json.dumps(said).encode(), Content_Type=DIGEST_TYPE).status == 200
    # Only now: a key that was destroyed signs nothing that could be looked at.
    for path in found:
        daemon.request("DELETE", path + f"?nonce={NONCE}", CHOSEN)
        daemon.request("DELETE", path)
    assert daemon.request("GET", "/v1/keys/own").json["code"] == "usage.key"
    seen = lines(log)[before:]
    assert made > 50
    assert fresh >= 10  # by the agent's own key and by a named one
    assert len(seen) > 50
    assert not forbidden() & set(seen)


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


def ask(path: Path, user: list[str], requests: list[bytes]) -> list[str]:
    """The answers to ``requests``, asked as ``user``; "" for a connection that was closed without one."""
    done = subprocess.run(
        [*user, sys.executable, "-I", "-c", ASK, str(path)],
        input="".join(request.hex() + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("uid", [SIGNER, STRANGER, MEMBER])
def test_the_sockets_between_our_processes(recorder: tuple[Daemon, Path], uid: int) -> None:
    daemon, log = recorder
    before = len(lines(log))
    requests = list(frames())
    answers = [
        answer
        for role in ROLES
        for answer in ask(socket_path(daemon.runtime, role), as_user(uid, GROUP), requests)
        if role != "signer"
    ]
    seen = lines(log)[before:]
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


def test_the_socket_for_ssh(recorder: tuple[Daemon, Path]) -> None:
    """Signatures, over digests and sessions that were chosen; evidence, over nothing at all."""
    daemon, log = recorder
    said = json.dumps({"name": "thief", "use": "ssh"}).encode()
    made = daemon.post("/v1/keys", said, Content_Type="application/json").json
    key = PublicKey.of(base64.b64decode(made["spki"]))
    before = len(lines(log))
    chosen = (CHOSEN, NONCE.encode(), NONCE.encode() + KEYS[0], bytes.fromhex(NONCE))
    answers = [one for data in chosen for one in ssh.ask(daemon.runtime / "ssh.sock", *ssh_messages(key, data))]
    kinds = [answer[0] for answer in answers]
    assert kinds.count(14) == 4 * 4
    assert set(kinds) <= {5, 12, 14, 28}
    assert lines(log)[before:] == []


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[list[str], list[argparse.Action]]]:
    """Words that lead to each sub-command, and its own arguments."""
    actions = parser._actions
    subs = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    if not subs:
        yield [], [action for action in actions if not isinstance(action, argparse._HelpAction)]
    for sub in subs:
        for name, child in sub.choices.items():
            yield from (([name, *words], found) for words, found in options(child))


def command_lines(daemon: Daemon, folder: Path) -> Iterator[list[str]]:
    """Each command with each of its options set to the chosen bytes, in words and as a file."""
    (folder / "chosen").write_bytes(CHOSEN)
    file = str(folder / "chosen")
    values = (CHOSEN.hex(), NONCE, file)
    for name in COMMANDS:
        if name == "daemon":
            continue  # the same process as above, were it not running already
        parser = argparse.ArgumentParser(parents=[common_options()])
        importlib.import_module(f"agent.commands.{name}").configure(parser)
        for words, actions in options(parser):
            common = ["--config", str(daemon.config)]
            places = [action for action in actions if not action.option_strings]
            switches = [action for action in actions if action.option_strings and action.dest not in NOT_TRIED]
            yield from ([name, *words, *common, *(value for _ in places)] for value in values)
            for switch in switches:
                given = [[]] if switch.nargs == 0 else [[value] for value in values]
                for value in given:
                    yield [name, *words, *common, switch.option_strings[-1], *value, *(file for _ in places)]


def test_commands(recorder: tuple[Daemon, Path], tmp_path: Path) -> None:
    daemon, log = recorder
    before = len(lines(log))
    commands = list(command_lines(daemon, tmp_path))
    assert len(commands) > 50
    (tmp_path / "here").mkdir()  # names of output files are relative
    said = subprocess.run(
        [sys.executable, "-c", COMMAND_BY_COMMAND],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    done = json.loads(said.stdout)
    assert len(done) == len(commands)
    assert set(done) <= {0, 1, 64, 65, 66, 69, 73, 74, 75, 77, 78}
    assert 0 in done
    seen = lines(log)[before:]
    assert seen
    assert not forbidden() & set(seen)


def said(daemon: Daemon, uid: int, method: str, params: dict[str, Any]) -> str:
    """What the quoter answers this user."""
    frame = json.dumps({"method": method, "params": params}).encode()
    (answer,) = ask(socket_path(daemon.runtime, "quoter"), as_user(uid), [struct.pack(">I", len(frame)) + frame])
    return answer


def test_the_search_finds_what_only_the_fetcher_may_ask_for(recorder: tuple[Daemon, Path]) -> None:
    """Now the list does hold the service's form, and only that: over a wrapping key that the signer announced."""
    daemon, log = recorder
    before = len(lines(log))
    own = base64.b64encode(KEYS[0] + b"of its own").decode()
    announced = {"wrapping_key": base64.b64encode(KEYS[0]).decode()}
    for stolen in (own, announced["wrapping_key"]):
        assert '"denied.peer"' in said(daemon, SIGNER, "tas", {"nonce": NONCE, "wrapping_key": stolen})
    assert '"denied.peer"' in said(daemon, FETCHER, "announce", {"wrapping_key": own})
    assert '"denied.wrapping-key"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, "wrapping_key": own})
    assert lines(log)[before:] == []
    assert said(daemon, SIGNER, "announce", announced) == '{"result": {}}'
    assert '"denied.wrapping-key"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, "wrapping_key": own})
    assert '"blob"' in said(daemon, FETCHER, "tas", {"nonce": NONCE, **announced})
    wanted = hashlib.sha512(NONCE.encode() + KEYS[0]).hexdigest()
    assert forbidden() & set(lines(log)[before:]) == {wanted}


def test_a_half_frame_is_dropped(recorder: tuple[Daemon, Path]) -> None:
    daemon, _ = recorder
    with dial(socket_path(daemon.runtime, "quoter")) as sock:
        sock.sendall(b"\0\0\0\x10{")
        assert sock.recv(100) == b""
