"""HTTP messages as handlers see them: a request whose body comes as it comes, and the answer to it.

agent.daemon.webread makes requests out of bytes; agent.daemon.front carries both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property, lru_cache, partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from agent.core.errors import FormatError

MAX_QUERY = 32
"""Names in a query."""
HIGH_WATER = 1 << 17
"""Bytes of a body that wait for their reader before its connection is read no further."""
DEFAULT_TYPE = "application/octet-stream"


class Headers:
    """By name, whatever its case; what came in several lines is joined by commas (RFC 9110, 5.3)."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        """``values`` by names in lower case."""
        self._values = values

    def get(self, name: str, default: str = "") -> str:
        return self._values.get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values


class Body:
    """A request's body, for one reader: bytes that are here, and an end that may be to come.

    ``flow`` is told True when more waits than should, False when there is room again; ``wanted`` is called when the
    reader first waits.
    """

    __slots__ = ("_error", "_flow", "_full", "_parts", "_size", "_waiter", "_wanted", "complete")

    def __init__(self, flow: Callable[[bool], None], wanted: Callable[[], None] | None = None) -> None:
        self.complete = False
        self._flow = flow
        self._wanted = wanted
        self._parts: list[bytes] = []
        self._size = 0
        self._full = False
        self._error: FormatError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """More of it."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._full:
            self._full = True
            self._flow(True)
        self._wake()

    def end(self) -> None:
        """All of it is here."""
        self.complete = True
        self._wake()

    def fail(self, error: FormatError) -> None:
        """It will never be whole: the reader gets ``error``."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def here(self) -> bytes:
        """What ``take`` would give, left where it is."""
        return b"".join(self._parts)

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something to say: bytes, the end, or an error."""
        return bool(self._parts) or self.complete or self._error is not None

    @property
    def empty(self) -> bool:
        """Over, and nothing of it is left to read."""
        return self.complete and not self._parts

    async def wait(self) -> None:
        """Until ``ready``."""
        if self._wanted and not self.ready:
            self._wanted()
            self._wanted = None
        while not self.ready:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def take(self) -> bytes:
        """What is here; b"" at the end. Raises FormatError for a body that is not what its head says."""
        if self._error:
            raise self._error
        data = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._full:
            self._full = False
            self._flow(False)
        return data


@dataclass(frozen=True)
class Head:
    """What a request's first bytes say, and all requests that begin with the same bytes.

    ``path`` is decoded, ``query_string`` is not; ``length`` is None for a body in chunks. ``asks``: the client waits to
    be told that its body is wanted (Expect: 100-continue).
    """

    method: str
    path: str
    query_string: str
    headers: Headers
    length: int | None
    keep_alive: bool
    asks: bool

    @cached_property
    def content_type(self) -> str:
        """The media type in lower case, without parameters."""
        return self.headers.get("content-type", DEFAULT_TYPE).partition(";")[0].strip().lower()

    @cached_property
    def query(self) -> tuple[tuple[str, str], ...]:
        """Names and values, decoded. Raises ValueError: no query, or more than MAX_QUERY names."""
        strict: dict[str, Any] = {"keep_blank_values": True, "strict_parsing": True, "errors": "strict"}
        return tuple(parse_qsl(self.query_string, max_num_fields=MAX_QUERY, **strict))


class Request:
    """One request: what its head says, and its body."""

    __slots__ = ("body", "content_type", "head", "headers", "length", "method", "path", "query_string")

    def __init__(self, head: Head, body: Body) -> None:
        self.head = head
        self.body = body
        self.method = head.method
        self.path = head.path
        self.query_string = head.query_string
        self.headers = head.headers
        self.length = head.length
        self.content_type = head.content_type

    @property
    def can_read_body(self) -> bool:
        """False where there is nothing to read, or nothing more."""
        return not self.body.empty

    @property
    def query(self) -> tuple[tuple[str, str], ...]:
        """As Head.query."""
        return self.head.query


Again = Callable[[bytes], bytes | None]
"""Makes the body of one more answer out of that of a request; None where it can't, and has done nothing."""


class Response:
    """One answer. With ``close`` it is the last on its connection.

    ``again``, if any, answers further requests of the same head from the same peer, in no time: but for their bodies
    those answers are the same.
    """

    __slots__ = ("again", "body", "close", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: str = DEFAULT_TYPE,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = dict(headers) if headers else {}
        self.close = False
        self.again: Again | None = None

    def encode(self, *, keep_alive: bool, head_only: bool = False) -> bytes:
        """As it goes over the wire."""
        head = _head(
            self.status, self.content_type, self._more(keep_alive=keep_alive), int(time.time()), len(self.body)
        )
        return head if head_only else head + self.body

    def _more(self, *, keep_alive: bool) -> str:
        more = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return more if keep_alive else f"{more}Connection: close\r\n"

    def heads(self) -> Callable[[int, int], bytes]:
        """Gives the head of an answer like this one by the second of the calendar and the size of its body."""
        return lru_cache(maxsize=2)(partial(_head, self.status, self.content_type, self._more(keep_alive=True)))


def _head(status: int, content_type: str, more: str, second: int, size: int) -> bytes:
    return (
        f"{_first_lines(status, content_type)}Date: {_date(second)}\r\n{more}Content-Length: {size}\r\n\r\n"
    ).encode("ascii")


@lru_cache(maxsize=64)
def _first_lines(status: int, content_type: str) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
