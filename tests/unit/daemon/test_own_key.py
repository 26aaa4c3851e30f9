"""The agent's own key: waited for, renewed, missing; over quotes that need no hardware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.core.binding import Scope
from agent.core.errors import FirmwareError, TeeAgentError
from agent.core.statement import AuditHead, Statement
from agent.daemon import keys
from agent.daemon.keys import AttestedKey, Attester, KeyRing, Terms
from tests.support.quotes import FakeQuotes, complete
from tests.support.waiting import until

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
        assert not ring.is_current(old)
        new = await ring.current()
        assert ring.is_current(new)
        assert not ring.is_current(replace(new)), "this very one"
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
