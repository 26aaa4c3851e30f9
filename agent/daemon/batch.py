"""Fresh answers: challenges that arrive while a quote is made become the leaves of the next one.

Hardware gives one to 25 quotes a second, so many nonces share one (DESIGN.md section 4). The tree is closed before
the quote is asked for; each answer carries its own proof. What waits is bounded, over all and per user.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent.core.bundle import Attachments, Bundle, Fresh, Payload
from agent.core.challenge import RANDOM_SIZE, Leaf
from agent.core.errors import DeadlineExceeded, ServerError, TeeAgentError
from agent.core.merkle import Tree
from agent.daemon import problem
from agent.daemon.keys import AttestedKey, Complete, KeyRing, quoted
from agent.daemon.threads import in_thread
from agent.deadline import Deadline
from agent.quoter import Quotes

MAX_WAITING, MAX_WAITING_EACH = 1024, 256
"""Challenges that wait at the most, over all and per user; less where batches are small."""

PATIENCE_SECONDS = 5.0
"""For an answer, beyond the time of two quotes."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One caller's wish. ``caller`` is what the kernel says of it, ``claims`` what it says itself."""

    nonce: bytes
    payload: Payload
    context: str
    audience: str
    caller: Mapping[str, Any]
    claims: Mapping[str, Any]

    def leaf(self, random: bytes, key: AttestedKey) -> Leaf:
        return Leaf(
            random,
            self.nonce,
            self.payload.digest,
            self.context,
            self.audience,
            key.attachments.key_sha256,
            key.statement.digest(),
            self.caller,
            self.claims,
        )


@dataclass(frozen=True, slots=True)
class Quoted:
    """A closed tree and the evidence over it."""

    key: AttestedKey
    attachments: Attachments
    tree: Tree


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    challenge: Challenge
    uid: int
    random: bytes
    done: asyncio.Future[tuple[Quoted, int]]


class Batcher:
    """Takes challenges, makes quotes one after the other, gives bundles."""

    def __init__(self, ring: KeyRing, quotes: Quotes, complete: Complete, most: int) -> None:
        self._ring = ring
        self._quotes = quotes
        self._complete = complete
        self._most = most
        self._all, self._each = min(4 * most, MAX_WAITING), min(2 * most, MAX_WAITING_EACH)
        self._queue: deque[_Waiting] = deque()
        self._waiting: Counter[int] = Counter()
        self._arrived = asyncio.Event()
        self.quote_seconds = 0.0
        self.batches = 0

    @property
    def waiting(self) -> int:
        """Challenges without an answer yet."""
        return self._waiting.total()

    async def answer(self, challenge: Challenge, uid: int) -> bytes:
        """The bundle. Raises ServerError over budget, DeadlineExceeded, and what kept the quote from being made."""
        return (await self.answered(challenge, uid))[0]

    async def answered(self, challenge: Challenge, uid: int) -> tuple[bytes, str]:
        """The same with the id (SHA-256 of its SubjectPublicKeyInfo, hex) of the key that signed."""
        if self._waiting[uid] >= self._each or self.waiting >= self._all:
            raise ServerError("too many challenges wait", retry_after=self._backlog_seconds(), code="server.budget")
        done: asyncio.Future[tuple[Quoted, int]] = asyncio.get_running_loop().create_future()
        item = _Waiting(challenge, uid, secrets.token_bytes(RANDOM_SIZE), done)
        self._waiting[uid] += 1
        self._queue.append(item)
        self._arrived.set()
        try:
            async with asyncio.timeout(2 * self._ring.terms.quote_seconds + PATIENCE_SECONDS):
                batch, index = await done
        except TimeoutError as error:
            raise DeadlineExceeded("the evidence did not come in time", hint="ask again") from error
        finally:
            self._waiting[uid] -= 1
            if not self._waiting[uid]:
                del self._waiting[uid]
        return _bundle(item, batch, index), batch.attachments.key_sha256.hex()

    def _backlog_seconds(self) -> float:
        return max(1.0, (self.waiting / self._most + 1) * self.quote_seconds)

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while items := self._take():
                await self._serve(items)

    def _take(self) -> list[_Waiting]:
        """The next batch; who gave up meanwhile is left out."""
        items: list[_Waiting] = []
        while self._queue and len(items) < self._most:
            item = self._queue.popleft()
            if not item.done.done():
                items.append(item)
        return items

    async def _serve(self, items: list[_Waiting]) -> None:
        try:
            key = await self._ring.current()
            tree = Tree([item.challenge.leaf(item.random, key).encode() for item in items])
            batch = await in_thread(partial(self._quote, key, tree))
        except TeeAgentError as error:
            for item in items:
                if not item.done.done():
                    item.done.set_exception(problem.exception(problem.document(error)))
            return
        self.batches += 1
        for index, item in enumerate(items):
            if not item.done.done():
                item.done.set_result((batch, index))

    def _quote(self, key: AttestedKey, tree: Tree) -> Quoted:
        begun = time.monotonic()
        deadline = Deadline(2 * self._ring.terms.quote_seconds, "evidence for challenges")
        evidence = self._quotes.challenge_batch(tree.size, tree.root, deadline=deadline)
        self.quote_seconds = time.monotonic() - begun
        return Quoted(key, quoted(key, evidence, self._complete), tree)


def _bundle(item: _Waiting, batch: Quoted, index: int) -> bytes:
    wish, tree = item.challenge, batch.tree
    fresh = Fresh(item.random, wish.nonce, wish.caller, wish.claims, tree.root, tree.size, index, tree.proof(index))
    draft = Bundle(wish.payload, wish.context, wish.audience, batch.attachments, fresh)
    return draft.signed(batch.key.private.sign(draft.signing_input())).encode()
