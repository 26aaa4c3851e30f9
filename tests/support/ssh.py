"""What ssh clients say to an agent, byte by byte, and real ones (openssh-client)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.algorithm import ED25519, P256, P384
from agent.core.sshsig import FileSignature
from agent.core.sshwire import PublicKey, strings, uint32
from tests.support import tools

ALGORITHMS = (ED25519, P256, P384)
HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
SESSION = bytes(range(32))
FAILURE, SUCCESS, EXTENSION_FAILURE = 5, 6, 28


def login(
    key: PublicKey,
    session: bytes = SESSION,
    user: bytes = b"deploy",
    *,
    service: bytes = b"ssh-connection",
    method: bytes = b"publickey",
    flag: bytes = b"\1",
    host_key: bytes = b"",
) -> bytes:
    """What a client has signed to log in (RFC 4252, section 7)."""
    return (
        strings(session)
        + b"\x32"
        + strings(user, service, method)
        + flag
        + strings(key.kind.encode(), key.blob)
        + (strings(host_key) if host_key else b"")
    )


def file(namespace: str = "file", name: str = "sha512") -> bytes:
    """What ssh-keygen -Y sign has signed."""
    return FileSignature(namespace, name, bytes(64 if name == "sha512" else 32)).encode()


def framed(body: bytes) -> bytes:
    return strings(body)


def listing() -> bytes:
    return framed(b"\x0b")


def signing(blob: bytes, data: bytes, flags: int = 0) -> bytes:
    return framed(b"\x0d" + strings(blob, data) + uint32(flags))


def extension(name: bytes, body: bytes = b"") -> bytes:
    return framed(b"\x1b" + strings(name) + body)


class Host:
    """A server with a host key, for session-bind."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.blob = strings(b"ssh-ed25519", raw)

    def bind(self, session: bytes = SESSION, *, forwarding: bool = False, signature: bytes | None = None) -> bytes:
        signed = strings(b"ssh-ed25519", self._key.sign(session)) if signature is None else signature
        body = strings(self.blob, session, signed) + bytes([forwarding])
        return extension(b"session-bind@openssh.com", body)


def answers(sock: socket.socket, count: int) -> Iterator[bytes]:
    """So many answers, without their lengths."""
    stream = sock.makefile("rb")
    for _ in range(count):
        yield stream.read(int.from_bytes(stream.read(4), "big"))


def ask(path: Path, *messages: bytes) -> list[bytes]:
    """Each message and its answer, in one connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        found: list[bytes] = []
        for message in messages:
            sock.sendall(message)
            found += answers(sock, 1)
        return found


ASK = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(60)
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    sys.stdout.write(sock.recv(1 << 20)[4:].hex())
"""


def ask_as(path: Path, user: Sequence[str], message: bytes) -> bytes:
    """The answer to one message that another user sends."""
    argv = [*user, sys.executable, "-I", "-c", ASK, str(path), message.hex()]
    return bytes.fromhex(subprocess.run(argv, capture_output=True, check=True, timeout=60, text=True).stdout)


def listed(answer: bytes) -> list[tuple[bytes, str]]:
    """The keys and comments of an answer to ``listing``."""
    assert answer[0] == 12
    at = 5
    found: list[tuple[bytes, str]] = []
    for _ in range(int.from_bytes(answer[1:5], "big")):
        parts = []
        for _ in range(2):
            size = int.from_bytes(answer[at : at + 4], "big")
            parts.append(answer[at + 4 : at + 4 + size])
            at += 4 + size
        found.append((parts[0], parts[1].decode()))
    assert at == len(answer)
    return found


def client(
    path: Path, *argv: str | Path, cwd: Path, user: Sequence[str] = (), given: bytes = b"", **more: str
) -> subprocess.CompletedProcess[bytes]:
    """A program of openssh-client, or git, with this agent."""
    program = tools.need(str(argv[0]))
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "SSH_AUTH_SOCK": str(path), "LC_ALL": "C", **more}
    words = [*user, program, *map(str, argv[1:])]
    return subprocess.run(words, cwd=cwd, env=environment, input=given, capture_output=True, timeout=60, check=False)
