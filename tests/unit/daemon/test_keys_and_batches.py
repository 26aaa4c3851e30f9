"""Keys are renewed, troubles told, challenges shared out: over quotes that need no hardware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core import merkle
from agent.core.binding import Scope
from agent.core.bundle import Payload, decode
from agent.core.errors import DeadlineExceeded, FirmwareError, ServerError, TeeAgentError
from agent.core.statement import AuditHead, Statement
from agent.daemon import keys
from agent.daemon.batch import Batcher, Challenge
from agent.daemon.keys import AttestedKey, Attester, KeyRing, Terms
from tests.support.quotes import FakeQuotes, complete

BOOT = "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11"
NONCE = "ab" * 32
HEAD = AuditHead(7, "cd" * 32)


def ring_of(quotes: FakeQuotes, seconds: int = 60, quote_seconds: float = 30) -> KeyRing:
    terms = Terms(Scope("rp", BOOT), timedelta(seconds=seconds), quote_seconds)
    return KeyRing(Attester(terms, quotes, complete, lambda: NONCE, lambda: HEAD))


def with_ring(ring: KeyRing, body: Callable[[], Awaitable[None]]) -> list[TeeAgentError]:
    """Run ``body`` beside the ring; the errors that were logged."""
    logged: list[TeeAgentError] = []

    async def main() -> None:
        task = asyncio.create_task(ring.run(lambda _, error: logged.append(error)))
        await body()
        task.cancel()

    asyncio.run(main())
    return logged


async def until(true: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


def test_the_first_request_waits_for_the_first_key() -> None:
    quotes = FakeQuotes()
    quotes.gate.clear()
    ring = ring_of(quotes)

    async def body() -> None:
        waiting = asyncio.create_task(ring.current())
        await until(lambda: bool(quotes.asked))
        assert not waiting.done()
        quotes.gate.set()
        key = await waiting
        assert key is ring.held
        assert (key.statement.audience, key.statement.boot_id, key.statement.tas_nonce) == ("rp", BOOT, NONCE)
        assert key.statement.audit == HEAD
        assert quotes.asked == [("signing_key", "Ed25519", "bundle", key.attachments.spki, key.statement.digest())]

    with_ring(ring, body)


def test_keys_are_replaced_before_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "RENEW_AT", 0.0001)
    ring = ring_of(FakeQuotes())
    seen: set[str] = set()

    async def body() -> None:
        while len(seen) < 3:
            seen.add((await ring.current()).attachments.key_sha256.hex())
            await asyncio.sleep(0.001)

    with_ring(ring, body)


def aged(key: AttestedKey) -> AttestedKey:
    """The key as it would look had the calendar gone on while the machine slept."""
    old = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=30)
    statement: Statement = replace(key.statement, created=old, expires=old + timedelta(hours=1))
    return replace(key, attachments=replace(key.attachments, statement=statement))


def test_a_key_that_ended_while_the_machine_slept_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = ring_of(FakeQuotes())

    async def body() -> None:
        old = aged(await ring.current())
        monkeypatch.setattr(ring, "_current", old)
        new = await ring.current()
        assert new.attachments.spki != old.attachments.spki
        assert new.valid(datetime.now(UTC))

    with_ring(ring, body)


def test_trouble_is_told_at_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    quotes = FakeQuotes([FirmwareError("no", errno=5, code="firmware.io")] * 2)
    pauses: list[float] = []
    tries_again = asyncio.Event()
    ring = ring_of(quotes)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await tries_again.wait()

    async def body() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("agent.daemon.keys.asyncio.sleep", pause)
            with pytest.raises(FirmwareError) as caught:
                await ring.current()
            assert (caught.value.code, caught.value.errno) == ("firmware.io", 5)
            tries_again.set()
            while ring.trouble:
                await asyncio.wait([asyncio.create_task(asyncio.Event().wait())], timeout=0.001)
        assert (await ring.current()).valid(datetime.now(UTC))

    assert [error.code for error in with_ring(ring, body)] == ["firmware.io"] * 2
    assert pauses == [keys.RETRY_SECONDS, keys.RETRY_SECONDS * 2]


def wish(index: int, uid: int = 0) -> Challenge:
    return Challenge(
        b"nonce of %08d" % index, Payload.of(b"p"), str(index), "a", {"uid": uid, "groups": []}, {"index": index}
    )


def with_batcher(
    body: Callable[[Batcher, FakeQuotes], Awaitable[None]], most: int, quote_seconds: float = 30
) -> FakeQuotes:
    quotes = FakeQuotes()
    ring = ring_of(quotes, quote_seconds=quote_seconds)
    batcher = Batcher(ring, quotes, complete, most)

    async def beside() -> None:
        await ring.current()
        task = asyncio.create_task(batcher.run())
        await body(batcher, quotes)
        task.cancel()

    with_ring(ring, beside)
    return quotes


def check(data: bytes, index: int) -> tuple[bytes, int, int]:
    bundle = decode(data)
    fresh = bundle.fresh
    assert fresh
    assert (fresh.nonce, bundle.context, fresh.claims_unverified) == (
        b"nonce of %08d" % index,
        str(index),
        {"index": index},
    )
    assert merkle.verify_proof(fresh.root, fresh.tree_size, fresh.index, bundle.leaf().encode(), fresh.path)
    public = load_der_public_key(bundle.attachments.spki)
    assert isinstance(public, Ed25519PublicKey)
    public.verify(bundle.signature, bundle.signing_input())
    return fresh.root, fresh.tree_size, fresh.index


def test_arrivals_during_a_quote_share_the_next() -> None:
    async def body(batcher: Batcher, quotes: FakeQuotes) -> None:
        quotes.gate.clear()
        first = asyncio.create_task(batcher.answer(wish(0), 0))
        await until(lambda: len(quotes.asked) == 2)
        rest = [asyncio.create_task(batcher.answer(wish(index), 0)) for index in range(1, 26)]
        await until(lambda: batcher.waiting == 26)
        quotes.gate.set()
        sizes = [check(await task, index)[1] for index, task in enumerate([first, *rest])]
        assert sizes == [1] + [20] * 20 + [5] * 5
        assert batcher.waiting == 0

    quotes = with_batcher(body, 20)
    assert [asked[1] for asked in quotes.asked[1:]] == [1, 20, 5]


def test_every_leaf_has_randomness_of_its_own() -> None:
    seen: set[bytes] = set()

    async def body(batcher: Batcher, _: FakeQuotes) -> None:
        for data in await asyncio.gather(*(batcher.answer(wish(1), 0) for _ in range(8))):
            fresh = decode(data).fresh
            assert fresh
            seen.add(fresh.random)

    with_batcher(body, 8)
    assert len(seen) == 8


def test_budgets_per_user_and_over_all() -> None:
    async def body(batcher: Batcher, quotes: FakeQuotes) -> None:
        quotes.gate.clear()
        tasks = [asyncio.create_task(batcher.answer(wish(index), uid)) for index, uid in enumerate([1, 1, 2, 2])]
        await until(lambda: batcher.waiting == 4)
        for uid in (1, 3):
            with pytest.raises(ServerError) as caught:
                await batcher.answer(wish(9), uid)
            assert caught.value.code == "server.budget"
            assert caught.value.retry_after >= 1
        tasks[3].cancel()
        await until(lambda: batcher.waiting == 3)
        tasks[3] = asyncio.create_task(batcher.answer(wish(3), 3))
        await until(lambda: batcher.waiting == 4)
        quotes.gate.set()
        for index, task in enumerate(tasks):
            check(await task, index)

    with_batcher(body, 1)


def test_who_gave_up_is_in_no_tree() -> None:
    async def body(batcher: Batcher, quotes: FakeQuotes) -> None:
        quotes.gate.clear()
        first = asyncio.create_task(batcher.answer(wish(0), 0))
        await until(lambda: len(quotes.asked) == 2)
        leaving = asyncio.create_task(batcher.answer(wish(1), 0))
        staying = asyncio.create_task(batcher.answer(wish(2), 0))
        await until(lambda: batcher.waiting == 3)
        leaving.cancel()
        await until(lambda: batcher.waiting == 2)
        quotes.gate.set()
        check(await first, 0)
        assert check(await staying, 2)[1:] == (1, 0)

    with_batcher(body, 20)


def test_a_failed_quote_fails_its_batch_only() -> None:
    async def body(batcher: Batcher, quotes: FakeQuotes) -> None:
        quotes.failures = [FirmwareError("no", code="firmware.io")]
        with pytest.raises(FirmwareError, match="no"):
            await batcher.answer(wish(0), 0)
        check(await batcher.answer(wish(1), 0), 1)

    with_batcher(body, 20)


def test_a_quote_that_never_comes_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.daemon.batch.PATIENCE_SECONDS", 0.01)

    async def body(batcher: Batcher, quotes: FakeQuotes) -> None:
        quotes.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await batcher.answer(wish(0), 0)
        assert batcher.waiting == 0
        quotes.gate.set()

    with_batcher(body, 20, quote_seconds=0.001)
