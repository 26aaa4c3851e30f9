"""Quotes with something around each request: agent.daemon.{metrics,monitor,renewal} count, tell and look at them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from agent.core.model import Evidence, Nonce
from agent.core.ports import Deadline
from agent.quoter import Quotes

Ask = Callable[[], Evidence]
TAS, COLLECT, SIGNING_KEY, CHALLENGE_BATCH = "tas", "collect", "signing-key", "challenge-batch"
"""Purposes, by the words of agent.core.binding; the first is the service's own form."""


class Around:
    """agent.quoter.Quotes that passes each request on, by way of ``around``."""

    def __init__(self, quotes: Quotes) -> None:
        self._quotes = quotes

    def around(self, purpose: str, ask: Ask) -> Evidence:
        """What ``ask`` gives, or raises. For a subclass to do more, in the asking thread."""
        del purpose
        return ask()

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return self.around(TAS, partial(self._quotes.tas, nonce, wrapping_key, deadline=deadline))

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        return self.around(COLLECT, partial(self._quotes.collect, nonce, deadline=deadline))

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        ask = partial(self._quotes.signing_key, algorithm, use, spki, statement_digest, deadline=deadline)
        return self.around(SIGNING_KEY, ask)

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        return self.around(CHALLENGE_BATCH, partial(self._quotes.challenge_batch, tree_size, root, deadline=deadline))
