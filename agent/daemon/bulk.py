"""Many payloads in one request: all are read, then all are signed, or none is (docs/api.md).

Bounded before anything is parsed. The work takes turns with everybody else's: SLICE_SECONDS at a time, one batch at a
time, so a thousand signatures hold nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from agent.core import canonical
from agent.core.errors import FormatError, ServerError
from agent.daemon.payloads import Memory
from agent.daemon.web import Request

TYPE = "application/vnd.tee-agent.batch+json"
MAX_BYTES = 8 << 20
MAX_ITEMS = 1000
MAX_UNDER_WAY = 4
"""Batches of one user at a time."""
SLICE_SECONDS = 0.001
_MARKS = ((b"[", 1), (b"{", 2 * MAX_ITEMS + 1), (b",", 3 * MAX_ITEMS))
"""How often a batch can have each: it bounds the values in it, and with them the parser's work and memory."""

T = TypeVar("T")
U = TypeVar("U")
Count = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Press(Generic[T]):
    """``sign`` makes a JSON value of a payload as it was read, ``count`` is told how many it made.

    ``head`` has the answer's members before ``signatures``, as JSON with a comma after each.
    """

    sign: Callable[[T], bytes]
    count: Count
    head: bytes = b""


class Bulk:
    """Batches of all callers. ``clock`` gives seconds that only grow."""

    def __init__(self, memory: Memory, clock: Callable[[], float] = time.monotonic) -> None:
        self._memory = memory
        self._clock = clock
        self._under_way: Counter[int] = Counter()
        self._turn = asyncio.Lock()

    async def answer(
        self, request: Request, uid: int, read: Callable[[Any], T], begin: Callable[[], Awaitable[Press[T]]]
    ) -> bytes:
        """The signatures over what ``read`` makes of each payload, in their order.

        ``begin`` gives the press once all are read, and is asked again at the end: when its key has gone meanwhile,
        nothing that it signed is given out. Raises as ``begin``, ServerError (``server.budget``), FormatError that
        names the payload, Oversized, and as body.chunks.
        """
        with self._place(uid):
            async with self._memory.whole(request, uid, MAX_BYTES) as data:
                asked = await self._read(read, items(data))
                press = await begin()
                made: list[bytes] = []
                await self._each(press.sign, asked, made, press.count)
                await begin()
        return b'{%s"signatures":[%s]}\n' % (press.head, b",".join(made))

    async def each(self, work: Callable[[T], U], things: Sequence[T]) -> list[U]:
        """What ``work`` makes of each of the ``things``: a slice at a time, in turn with all batches. Raises as it."""
        made: list[U] = []
        await self._each(work, things, made, lambda _: None)
        return made

    @contextmanager
    def _place(self, uid: int) -> Iterator[None]:
        if self._under_way[uid] >= MAX_UNDER_WAY:
            raise ServerError(
                f"{MAX_UNDER_WAY} batches of this user are under way", retry_after=1.0, code="server.budget"
            )
        self._under_way[uid] += 1
        try:
            yield
        finally:
            self._under_way[uid] -= 1
            if not self._under_way[uid]:
                del self._under_way[uid]

    async def _read(self, read: Callable[[Any], T], found: Sequence[Any]) -> list[T]:
        asked: list[T] = []
        try:
            await self._each(read, found, asked, lambda _: None)
        except FormatError as error:
            message = f"payloads[{len(asked)}]: {error.message}"
            raise type(error)(message, record="batch", hint=error.hint, code=error.code) from error
        return asked

    async def _each(self, work: Callable[[T], U], things: Sequence[T], made: list[U], count: Count) -> None:
        """``made`` grows by what ``work`` makes of each of the ``things``."""
        while len(made) < len(things):
            async with self._turn:
                before, end = len(made), self._clock() + SLICE_SECONDS
                try:
                    for thing in things[before:]:
                        made.append(work(thing))
                        if self._clock() >= end:
                            break
                finally:
                    if len(made) > before:
                        count(len(made) - before)
                # With the turn still ours: between two slices of whichever batches, everybody else is served.
                await asyncio.sleep(0)


def items(data: bytes) -> list[Any]:
    """The payloads of a batch, as JSON. Raises FormatError, before parsing what holds more than a batch can."""
    # Nothing in a batch but its own layout has these characters.
    if any(exceeds(data, mark, most) for mark, most in _MARKS):
        raise _not_a_batch()
    fields = canonical.Reader(canonical.parse(data, "batch", MAX_BYTES), "batch", frozenset({"payloads"}))
    found = fields.item("payloads")
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_ITEMS:
        raise _not_a_batch()
    return found


def exceeds(data: bytes, mark: bytes, most: int) -> bool:
    """Whether ``mark`` occurs more than ``most`` times. Searches rather than counts, which takes ten times as long."""
    at = -1
    for _ in range(most + 1):
        at = data.find(mark, at + 1)
        if at < 0:
            return False
    return True


def _not_a_batch() -> FormatError:
    return FormatError(f"payloads: a list of 1 to {MAX_ITEMS}, each with data or digest", record="batch")
