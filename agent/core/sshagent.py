"""The ssh-agent protocol (RFC 9987): frames taken apart, requests read, answers made. Knows no keys and no sockets.

Read are: the list of keys, signatures, and two extensions: query, and session-bind of OpenSSH's PROTOCOL.agent. All
other requests are about an agent that can be given keys, and fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent.core.errors import FormatError, Oversized
from agent.core.sshsig import MAX_HOST_KEY, MAX_SESSION
from agent.core.sshwire import MAX_KEY, Reader, strings, uint32

MAX_MESSAGE = 256 * 1024
"""Bytes of a message at the most; a longer one ends the connection."""
KEPT = 32 * 1024
"""Bytes of the longest message that is looked into: none that gets another answer than failure is longer."""
MAX_LIST = 64 * 1024
"""Bytes of a list of keys; what does not fit is left out."""
QUERY, SESSION_BIND = "query", "session-bind@openssh.com"
_LIST, _SIGN, _EXTENSION = 11, 13, 27
_IDENTITIES_ANSWER, _SIGN_RESPONSE, _EXTENSION_RESPONSE = 12, 14, 29
FAILURE, SUCCESS, EXTENSION_FAILURE = b"\0\0\0\1\x05", b"\0\0\0\1\x06", b"\0\0\0\1\x1c"
"""Whole answers."""


@dataclass(frozen=True, slots=True)
class List:
    """SSH_AGENTC_REQUEST_IDENTITIES."""


@dataclass(frozen=True, slots=True)
class Sign:
    """SSH_AGENTC_SIGN_REQUEST without flags: ours are for RSA only. ``key`` is the encoded public key."""

    key: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Query:
    """Which extensions are there?"""


@dataclass(frozen=True, slots=True)
class Bind:
    """The connection is about this session with this server, or about whoever comes from there."""

    host_key: bytes
    session: bytes
    signature: bytes
    forwarding: bool


@dataclass(frozen=True, slots=True)
class BrokenBind:
    """A session-bind that can't be read."""


@dataclass(frozen=True, slots=True)
class Other:
    """Everything else."""


Request = List | Sign | Query | Bind | BrokenBind | Other


def read(message: bytes) -> Request:
    """One message without its length. Raises FormatError for a request of ours that is malformed."""
    kind, body = message[:1], message[1:]
    reader = Reader(body, "ssh-agent request")
    if kind == bytes([_LIST]):
        reader.finish()
        return List()
    if kind == bytes([_SIGN]):
        return _sign(reader)
    if kind == bytes([_EXTENSION]):
        return _extension(reader)
    return Other()


def _sign(reader: Reader) -> Sign:
    found = Sign(reader.string(MAX_KEY), reader.string(KEPT))
    if reader.uint32():
        raise reader.wrong("no flags are known for keys of these kinds")
    reader.finish()
    return found


def _extension(reader: Reader) -> Request:
    name = reader.string(256)
    if name == SESSION_BIND.encode():
        try:
            return _bind(reader)
        except FormatError:
            return BrokenBind()
    if name != QUERY.encode():
        return Other()
    reader.finish()
    return Query()


def _bind(reader: Reader) -> Bind:
    found = Bind(
        reader.string(MAX_HOST_KEY, 1), reader.string(MAX_SESSION, 1), reader.string(MAX_HOST_KEY), reader.boolean()
    )
    reader.finish()
    return found


def identities(keys: Iterable[tuple[bytes, str]]) -> bytes:
    """The answer to List: encoded public keys and comments, as many of the first as fit."""
    made, size = [], 0
    for blob, comment in keys:
        entry = strings(blob, comment.encode())
        size += len(entry)
        if size > MAX_LIST:
            break
        made.append(entry)
    return _frame(_IDENTITIES_ANSWER, uint32(len(made)) + b"".join(made))


def signature(blob: bytes) -> bytes:
    """The answer to Sign: a signature as SSH encodes it."""
    return _frame(_SIGN_RESPONSE, strings(blob))


def extensions() -> bytes:
    """The answer to Query."""
    return _frame(_EXTENSION_RESPONSE, strings(QUERY.encode(), SESSION_BIND.encode()))


def _frame(kind: int, body: bytes) -> bytes:
    return strings(bytes([kind]) + body)


class Frames:
    """Messages out of a stream, in bounded memory: at most KEPT bytes of the one that is coming in."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        """Bytes to come of a message that is not looked into."""

    @property
    def partial(self) -> bool:
        """A message has begun and is not complete."""
        return bool(self._buffer) or self._left > 0

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The messages that are complete with ``data``; b"" stands for one that is longer than KEPT.

        Raises Oversized over MAX_MESSAGE, FormatError for an empty message: what follows can't be told apart.
        """
        self._buffer += data
        found: list[bytes] = []
        while self._skipped(found) and len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            _require(size)
            if size > KEPT:
                del self._buffer[:4]
                self._left = size
            elif len(self._buffer) < 4 + size:
                break
            else:
                found.append(bytes(self._buffer[4 : 4 + size]))
                del self._buffer[: 4 + size]
        return found

    def _skipped(self, found: list[bytes]) -> bool:
        """Drops what is dropped; False while there is more of it to come."""
        if self._left:
            cut = min(self._left, len(self._buffer))
            del self._buffer[:cut]
            self._left -= cut
            if self._left:
                return False
            found.append(b"")
        return True


def _require(size: int) -> None:
    if size > MAX_MESSAGE:
        raise Oversized(f"an ssh-agent message of {size} bytes", record="ssh-agent", expected=f"{MAX_MESSAGE} bytes")
    if not size:
        raise FormatError("an ssh-agent message without a type", record="ssh-agent")
