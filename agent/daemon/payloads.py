"""What is to be signed, out of a request: the body itself in constant memory, or a digest that stands for it."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from agent.core.algorithm import Algorithm
from agent.core.bundle import Payload
from agent.core.canonical import MAX_INTEGER, Reader
from agent.core.errors import FormatError, ServerError
from agent.daemon import body
from agent.daemon.web import Request

DIGEST_TYPE = "application/vnd.tee-agent.digest+json"
"""A media type of its own: a payload that happens to be JSON is never taken for a digest."""
MAX_WHOLE = 1 << 20
"""Bytes of a payload that must be held in memory to be signed."""
MAX_HELD = 16 << 20
"""Of all such payloads at a time."""
_FIELDS = frozenset({"alg", "digest", "size"})
_DATA, _DIGEST = frozenset({"data"}), frozenset({"digest"})


def is_digest(request: Request) -> bool:
    """Whether the body is a digest that stands for the payload."""
    return request.content_type == DIGEST_TYPE


async def payload(request: Request) -> Payload:
    """For a bundle: SHA-512 and size. Raises as agent.daemon.body."""
    if not is_digest(request):
        return await body.payload(request)
    return digest_fields(await body.document(request, _FIELDS, {}))


def digest(document: Any) -> Payload:
    """The same, out of another document."""
    return digest_fields(Reader(document, "payload", _FIELDS))


def digest_fields(fields: Reader) -> Payload:
    if fields.item("alg") != "sha-512":
        raise FormatError("alg is not sha-512", record="payload")
    return Payload(fields.hexadecimal("digest", 64), fields.integer("size", 0, MAX_INTEGER))


async def hashed(request: Request, algorithm: Algorithm) -> bytes:
    """The digest by the algorithm's own hash: of the body, or as given. For algorithms that have one."""
    if is_digest(request):
        return _hash_fields(await body.document(request, _FIELDS, {}), algorithm)
    found = _hash_of(algorithm)
    async for chunk in body.chunks(request, body.MAX_PAYLOAD):
        found.update(chunk)
    return found.digest()


def _hash_of(algorithm: Algorithm) -> hashlib._Hash:
    return hashlib.new(algorithm.hash.replace("-", ""))


def _hash_fields(fields: Reader, algorithm: Algorithm) -> bytes:
    if fields.item("alg") != algorithm.hash:
        raise FormatError(f"alg is not {algorithm.hash}, the hash of {algorithm.name}", record="payload")
    fields.integer("size", 0, MAX_INTEGER)
    return fields.hexadecimal("digest", algorithm.digest_size)


def of_item(item: Any) -> Payload:
    """For a bundle, out of one item of a batch: ``{"data": base64}`` or ``{"digest": {...}}``. Raises FormatError."""
    return digest(item["digest"]) if _has_digest(item) else Payload.of(data_of_item(item))


def hash_of_item(item: Any, algorithm: Algorithm) -> bytes:
    """The same by the algorithm's own hash. Raises FormatError."""
    if _has_digest(item):
        return _hash_fields(Reader(item["digest"], "digest", _FIELDS), algorithm)
    found = _hash_of(algorithm)
    found.update(data_of_item(item))
    return found.digest()


def data_of_item(item: Any) -> bytes:
    """The payload itself, for keys that sign no digests. Raises FormatError, over MAX_WHOLE too."""
    if _has_digest(item):
        raise _no_digest()
    return Reader(item, "payload", _DATA).base64("data", 0, MAX_WHOLE)


def _has_digest(item: Any) -> bool:
    return isinstance(item, dict) and item.keys() == _DIGEST


def _no_digest() -> FormatError:
    return FormatError("this key signs a payload, not a digest", record="payload", hint="send the payload itself")


class Memory:
    """Room for payloads that must be whole: bounded over all callers and for each user, so nobody fills it alone."""

    def __init__(self, total: int = MAX_HELD, each: int = MAX_HELD // 2) -> None:
        self._total, self._each = total, each
        self._held: Counter[int] = Counter()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held.total()

    def whole(self, request: Request, uid: int, most: int = MAX_WHOLE) -> Whole:
        """``async with``: the body, for what can't be signed by a digest; its room is free again afterwards.

        Raises Oversized over ``most``, ServerError (``server.budget``), FormatError for a digest, as body.chunks.
        """
        return Whole(self, request, uid, most)

    def take(self, uid: int, size: int) -> None:
        """Room for so many bytes more. Raises ServerError (``server.budget``)."""
        if self._held[uid] + size > self._each or self.held + size > self._total:
            raise ServerError("too many large payloads at a time", retry_after=1.0, code="server.budget")
        self._held[uid] += size

    def give_back(self, uid: int, size: int) -> None:
        """What was taken."""
        self._held[uid] -= size
        if not self._held[uid]:
            del self._held[uid]


class Whole:
    """Memory.whole."""

    __slots__ = ("_memory", "_most", "_request", "_taken", "_uid")

    def __init__(self, memory: Memory, request: Request, uid: int, most: int) -> None:
        self._memory, self._request, self._uid, self._most = memory, request, uid, most
        self._taken = 0

    async def __aenter__(self) -> bytes:
        if is_digest(self._request):
            raise _no_digest()
        try:
            return await self._read()
        except BaseException:
            self._memory.give_back(self._uid, self._taken)
            raise

    async def _read(self) -> bytes:
        data = body.at_once(self._request, self._most)
        if data is not None:
            self._take(len(data))
            return data
        parts = []
        async for chunk in body.chunks(self._request, self._most):
            self._take(len(chunk))
            parts.append(chunk)
        return b"".join(parts)

    def _take(self, size: int) -> None:
        self._memory.take(self._uid, size)
        self._taken += size

    async def __aexit__(self, *_: object) -> None:
        self._memory.give_back(self._uid, self._taken)
