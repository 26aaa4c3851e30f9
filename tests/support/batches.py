"""Fresh answers over quotes that need no hardware: one signer's keys, its budget, its batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core import merkle
from agent.core.binding import Scope
from agent.core.bundle import Bundle, Payload, decode
from agent.daemon.asked import Asked, Challenge, Holder, whole
from agent.daemon.batch import Batcher
from agent.daemon.budget import Budget
from agent.daemon.holders import NamedHolder, OwnHolder
from agent.daemon.keys import Attester, KeyRing, Terms
from agent.daemon.named import Limits, NamedKey, NamedKeys
from tests.support.named import BOOT
from tests.support.quotes import FakeQuotes, complete


@dataclass
class Batches:
    """Everything of a signer that quotes are for; ``run`` has it running beside ``body``."""

    most: int = 20
    quote_seconds: float = 30.0
    quotes: Any = field(default_factory=FakeQuotes)

    def __post_init__(self) -> None:
        self.budget = Budget(self.most)
        terms = Terms(Scope("rp", BOOT), timedelta(hours=1), self.quote_seconds)
        attester = Attester(terms, self.quotes, complete, lambda: None, lambda: None, budget=self.budget)
        self.ring = KeyRing(attester)
        self.named = NamedKeys(attester, Limits(1000, 1000))
        self.batcher = Batcher(self.budget, self.quotes, complete, self.quote_seconds)

    def run(self, body: Callable[[Batches], Awaitable[None]]) -> None:
        async def main() -> None:
            works = (self.ring.run(_fail), self.named.run(_fail), self.batcher.run())
            tasks = [asyncio.create_task(work) for work in works]
            await self.ring.current()
            await body(self)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())

    async def key(self, name: str = "k", algorithm: str = "Ed25519", uid: int = 1) -> NamedKey:
        return await self.named.create(f"uid-{uid}", name, algorithm, "bundle")

    def ask(self, *numbers: int, uid: int = 0, holder: Holder | None = None) -> asyncio.Task[Sequence[bytes]]:
        """One request for a challenge of each number; its answers."""
        asked = Asked(holder or OwnHolder(self.ring), [challenge(number, uid) for number in numbers], uid, whole)

        async def answered() -> Sequence[bytes]:
            return (await self.batcher.answer(asked)).documents

        return asyncio.get_running_loop().create_task(answered())

    def of(self, key: NamedKey) -> NamedHolder:
        return NamedHolder(self.named, key)

    @property
    def waiting(self) -> int:
        return self.budget.challenges

    @property
    def trees(self) -> list[object]:
        """Sizes of the trees that quotes were asked over."""
        return [asked[1] for asked in self.quotes.asked if asked[0] == "challenge_batch"]


def _fail(_: str, error: Exception) -> None:
    raise AssertionError(error)


def challenge(number: int, uid: int = 0) -> Challenge:
    nonce = b"nonce of %08d" % number
    return Challenge(nonce, Payload.of(b"p"), str(number), "a", {"uid": uid, "groups": []}, {"number": number})


def check(data: bytes, number: int) -> Bundle:
    """That this is the answer to challenge ``number``, proven and signed by its own key (Ed25519)."""
    bundle = decode(data)
    fresh = bundle.fresh
    assert fresh
    assert (fresh.nonce, bundle.context, fresh.claims_unverified) == (
        b"nonce of %08d" % number,
        str(number),
        {"number": number},
    )
    assert merkle.verify_proof(fresh.root, fresh.tree_size, fresh.index, bundle.leaf().encode(), fresh.path)
    public = load_der_public_key(bundle.attachments.spki)
    assert isinstance(public, Ed25519PublicKey)
    public.verify(bundle.signature, bundle.signing_input())
    return bundle


def place(data: bytes, number: int) -> tuple[int, int]:
    """Size of its tree and its index there."""
    fresh = check(data, number).fresh
    assert fresh
    return fresh.tree_size, fresh.index
