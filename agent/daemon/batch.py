"""Fresh answers: what is asked for while a quote is made becomes the leaves of the next one.

Hardware gives one to 25 quotes a second, so many answers share one (DESIGN.md section 4). The tree is closed before
the quote is asked for; each answer carries its own proof. Which requests may wait, and when a quote is asked for, is
agent.daemon.budget's to say; here a tree takes from each user in turn, so that nobody fills it alone. Leaves are
hashed and answers written in slices: thousands come due at once, and others want to be served meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from agent.core.bundle import Attachments, Bundle, Fresh
from agent.core.challenge import RANDOM_SIZE
from agent.core.errors import DeadlineExceeded, ServerError, TeeAgentError
from agent.core.merkle import Tree, leaf_hash
from agent.core.model import Endorsements, Tee
from agent.daemon.asked import Answered, Asked, Challenge, Signing
from agent.daemon.budget import Budget, Turn, payer_of
from agent.daemon.keys import Complete, utc_now
from agent.daemon.threads import in_thread
from agent.daemon.waiting import Lines, Waiting
from agent.deadline import Deadline
from agent.quoter import Quotes

PATIENCE_SECONDS = 5.0
"""For an answer, beyond the time of three quotes: the one under way, one of another kind, its own."""
SLICE_SECONDS = 0.002
"""Of leaves hashed, or answers written, before others get their turn."""
TRIES = 2
"""For a request whose key's evidence runs out while it waits."""


@dataclass(frozen=True, slots=True)
class _Quoted:
    """A closed tree, and the evidence over it as a bundle carries it."""

    tree: Tree
    tee: Tee
    blob: bytes
    endorsements: Endorsements
    made: dict[bytes, Attachments] = field(default_factory=dict)

    def attached(self, key: Signing) -> Attachments:
        """The key and its statement under this evidence: made once for each."""
        digest = key.attachments.digest
        if digest not in self.made:
            found = Attachments(self.tee, self.blob, self.endorsements, key.attachments.spki, key.statement)
            self.made[digest] = found
        return self.made[digest]


class Batcher:
    """Takes requests, has quotes made, answers.

    ``quote_seconds`` is for one quote at the most; ``now`` is the calendar's time.
    """

    def __init__(
        self,
        budget: Budget,
        quotes: Quotes,
        complete: Complete,
        quote_seconds: float,
        *,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._budget = budget
        self._quotes = quotes
        self._complete = complete
        self._seconds = quote_seconds
        self._now = now
        self._lines = Lines()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._due: dict[int, deque[tuple[_Quoted, Waiting, int]]] = {}
        self._writing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.batches = 0

    @property
    def most(self) -> int:
        """Challenges in a tree, and so in a request, at the most."""
        return self._budget.most

    @property
    def waiting(self) -> int:
        """Challenges without an answer yet."""
        return self._budget.challenges

    @property
    def quote_seconds(self) -> float:
        """What the last quote of all took; 0.0 before the first."""
        return self._budget.quote_seconds

    def require_room(self, uid: int) -> None:
        """Raises ServerError (``server.budget``) when this user may not have one challenge more wait."""
        self._budget.require_leaf(payer_of(uid))

    async def answer(self, asked: Asked) -> Answered:
        """The answers. Raises ServerError over budget (``server.budget``) and when the agent stops, DeadlineExceeded,
        what the holder raises, and what kept the quote from being made."""
        size = sum(challenge.size for challenge in asked.challenges)
        with self._budget.leaf_places(payer_of(asked.uid), len(asked.challenges), size):
            try:
                async with asyncio.timeout(3 * self._seconds + PATIENCE_SECONDS):
                    for _ in range(TRIES):
                        key = await asked.holder.current()
                        if answered := await self._waited_for(asked, key):
                            return answered
            except TimeoutError as error:
                raise DeadlineExceeded("the evidence did not come in time", hint="ask again") from error
        raise ServerError("the key's evidence ran out before its quote came", retry_after=1.0)

    async def _waited_for(self, asked: Asked, key: Signing) -> Answered | None:
        random = secrets.token_bytes(RANDOM_SIZE * len(asked.challenges))
        hashes, slices = [], _Slices()
        for number, challenge in enumerate(asked.challenges):
            hashes.append(leaf_hash(challenge.leaf(_part(random, number), key).encode()))
            await slices.pause()
        if self._stopped:
            raise _stopping()
        done: asyncio.Future[Answered | None] = asyncio.get_running_loop().create_future()
        item = Waiting(asked, key, random, hashes, done)
        self._lines.add(item)
        self._arrived.set()
        self._mark_full()
        try:
            return await done
        except asyncio.CancelledError:
            self._lines.remove(item)
            self._mark_full()
            raise

    async def run(self) -> None:
        """Serve for ever. Cancelled, it takes no more; what a quote is being made for is still answered."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._lines.leaves:
                    await asyncio.shield(self._task(self._next()))
        finally:
            self._stopped = True
            for item in self._lines.emptied():
                item.fail(_stopping())

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _next(self) -> None:
        """One quote: over what waits when its turn has come."""
        items: list[Waiting] = []
        try:
            async with self._budget.turn(Turn.TREE, full=self._full) as turn:
                items = self._closed()
                turn.quoted = bool(items)
                if items:
                    quoted = await in_thread(partial(self._quote, [one for item in items for one in item.hashes]))
        except TeeAgentError as error:
            for item in items:
                item.fail(error)
        else:
            if items:
                self.batches += 1
                self._answer(quoted, items)

    def _answer(self, quoted: _Quoted, items: Sequence[Waiting]) -> None:
        """Have the answers written, while the next quote is asked for."""
        first = 0
        for item in items:
            self._due.setdefault(item.asked.uid, deque()).append((quoted, item, first))
            first += len(item.hashes)
        if not self._writing:
            self._writing = True
            self._task(self._write())

    def _closed(self) -> list[Waiting]:
        """The requests of the next tree."""
        items = self._lines.closed(self._budget.most, partial(self._may_stay, at=self._now()))
        self._mark_full()
        return items

    def _mark_full(self) -> None:
        (self._full.set if self._lines.leaves >= self._budget.most else self._full.clear)()

    def _may_stay(self, item: Waiting, at: datetime) -> bool:
        """False for one that has left, or whose key is no longer what it was: then it has been told."""
        try:
            item.asked.holder.require()
        except TeeAgentError as error:
            item.fail(error)
        if not item.key.valid(at):
            item.settle(None)
        return not item.done.done()

    def _quote(self, hashes: Sequence[bytes]) -> _Quoted:
        tree = Tree(hashes, hashed=True)
        deadline = Deadline(2 * self._seconds, "evidence for challenges")
        evidence = self._quotes.challenge_batch(tree.size, tree.root, deadline=deadline)
        return _Quoted(tree, evidence.tee, *self._complete(evidence))

    async def _write(self) -> None:
        """Answer all that is due, from each user in turn: nobody's answer waits for thousands of another's."""
        slices = _Slices()
        try:
            while self._due:
                uid = next(iter(self._due))
                line = self._due.pop(uid)
                quoted, item, first = line.popleft()
                if line:
                    self._due[uid] = line
                await self._settle(quoted, item, first, slices)
        finally:
            self._writing = False

    async def _settle(self, quoted: _Quoted, item: Waiting, first: int, slices: _Slices) -> None:
        """Answer one request, unless it has left or its key has ended meanwhile."""
        documents: list[bytes] = []
        try:
            attached = quoted.attached(item.key)
            for number, challenge in enumerate(item.asked.challenges):
                if not self._may_stay(item, self._now()):
                    return
                fresh = _fresh(quoted.tree, challenge, _part(item.random, number), first + number)
                draft = Bundle(challenge.payload, challenge.context, challenge.audience, attached, fresh)
                documents.append(item.asked.form(draft, item.key.sign))
                await slices.pause()
        except TeeAgentError as error:
            item.fail(error)
        else:
            item.settle(Answered(attached, documents))


class _Slices:
    """Lets others go on when a slice of time is used up."""

    def __init__(self) -> None:
        self._until = time.monotonic() + SLICE_SECONDS

    async def pause(self) -> None:
        if time.monotonic() >= self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + SLICE_SECONDS


def _fresh(tree: Tree, challenge: Challenge, random: bytes, index: int) -> Fresh:
    path = tree.proof(index)
    return Fresh(random, challenge.nonce, challenge.caller, challenge.claims, tree.root, tree.size, index, path)


def _part(random: bytes, number: int) -> bytes:
    return random[number * RANDOM_SIZE : (number + 1) * RANDOM_SIZE]


def _stopping() -> ServerError:
    return ServerError("the agent stops", hint="ask again when it runs", retry_after=5.0)
