"""Targets: what ssh clients say to the agent, what they want signed, and signatures as ssh-keygen writes them."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from agent.core import sshagent, sshsig
from agent.core.errors import FormatError
from agent.core.sshagent import KEPT, Bind, Frames
from agent.core.sshsig import FileSignature
from agent.core.sshwire import MAX_KEY, NAMES, PublicKey
from agent.daemon.sshbind import is_signed
from tests.fuzz.contract import Broken, Target
from tests.fuzz.samples import Samples
from tests.support import ssh

_SPKIS = tuple(
    bytes.fromhex(prefix) + bytes(range(size))
    for prefix, size in (
        ("302a300506032b6570032100", 32),
        ("3059301306072a8648ce3d020106082a8648ce3d03010703420004", 64),
        ("3076301006072a8648ce3d020106052b8104002203620004", 96),
    )
)
KEYS = tuple(map(PublicKey.of, _SPKIS))
HOST = ssh.Host()
WORDS = (
    b"SSHSIG",
    b"ssh-connection",
    b"publickey",
    b"publickey-hostbound-v00@openssh.com",
    b"session-bind@openssh.com",
    b"query",
    b"sha512",
    b"sha256",
    b"nistp256",
    *(name.encode() for name in NAMES.values()),
    b"\0\0\0\x0b",
    b"\0\0\0\x20",
    b"\0\0\0\x40",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x0b",
    b"\x0d",
    b"\x1b",
)


def messages(data: bytes) -> None:
    """A stream, in two halves; then every message that came out of it."""
    frames = Frames()
    found = [*frames.feed(data[: len(data) // 2]), *frames.feed(data[len(data) // 2 :])]
    if len(frames._buffer) > KEPT + 4 or any(len(one) > KEPT for one in found):
        raise Broken("more is kept than may be")
    for message in found:
        try:
            request = sshagent.read(message)
        except FormatError:
            continue
        if isinstance(request, Bind):
            is_signed(request)


def purposes(data: bytes) -> None:
    """What is to be signed: a file's digest comes out as it went in, a login is for the key that was asked."""
    for key in KEYS:
        try:
            found = sshsig.purpose(data, key)
        except FormatError:
            continue
        if isinstance(found, FileSignature):
            if found.encode() != data:
                raise Broken("what is signed does not come out as it went in")
        elif key.blob not in data or not found.user or not 20 <= len(found.session) <= 64:
            raise Broken("a login for another key, or of nobody")


def signatures(data: bytes) -> None:
    """First the text as it is, then with a text form made of the bytes."""
    for text in (data, _armored(data)):
        try:
            found = sshsig.decode(text)
        except FormatError:
            continue
        if sshsig.decode(found.armored()) != found:
            raise Broken("a signature does not come out as it went in")
        for key in KEYS:
            _unwrapped(key, found.signature)


def _armored(data: bytes) -> bytes:
    text = base64.b64encode(data[: 4 * MAX_KEY])
    lines = b"\n".join(text[at : at + 70] for at in range(0, len(text), 70))
    return b"-----BEGIN SSH SIGNATURE-----\n" + lines + b"\n-----END SSH SIGNATURE-----\n"


def _unwrapped(key: PublicKey, signature: bytes) -> None:
    try:
        made = key.unwrap(signature)
    except FormatError:
        return
    if len(made) == key.algorithm.signature_size and key.wrap(made) != signature:
        raise Broken("a signature of a key does not come out as it went in")


def _message_seeds(_: Samples) -> Iterator[bytes]:
    for key in KEYS:
        yield ssh.signing(key.blob, ssh.file()) + ssh.signing(key.blob, ssh.login(key))
    yield ssh.listing() + ssh.extension(b"query") + HOST.bind() + HOST.bind(forwarding=True)


def _purpose_seeds(_: Samples) -> Iterator[bytes]:
    yield from (ssh.file("git"), ssh.file("file", "sha256"))
    for key in KEYS:
        yield ssh.login(key)
        yield ssh.login(key, method=ssh.HOSTBOUND, host_key=HOST.blob)


def _signature_seeds(_: Samples) -> Iterator[bytes]:
    for key in KEYS:
        raw = bytes(range(1, key.algorithm.signature_size + 1))
        made = sshsig.build(key, FileSignature("git", "sha512", bytes(64)), raw)
        yield made
        yield base64.b64decode(b"".join(made.splitlines()[1:-1]))


TARGETS = {
    "core.ssh-messages": Target(messages, _message_seeds, WORDS, most=2048),
    "core.ssh-purpose": Target(purposes, _purpose_seeds, WORDS, most=2048),
    "core.ssh-signature": Target(signatures, _signature_seeds, (*WORDS, b"-----", b"\n", b"="), most=2048),
}
