"""Nonces are alive once, for a bounded time, and only so many of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent.core.errors import ServerError
from agent.core.model import Nonce
from tas import nonces as module
from tas.nonces import NONCE_SECONDS, Nonces


class Hands:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def nonces(clock: Hands) -> Nonces:
    return Nonces(clock)


def test_is_consumed_once(nonces: Nonces) -> None:
    first, second = nonces.new(), nonces.new()
    assert first.text != second.text
    assert nonces.consume(first)
    assert not nonces.consume(first)
    assert nonces.consume(second)


def test_unknown(nonces: Nonces) -> None:
    nonces.new()
    assert not nonces.consume(Nonce("0" * 64))


@pytest.mark.parametrize(("age", "alive"), [(0, True), (NONCE_SECONDS - 1, True), (NONCE_SECONDS, False)])
def test_expires(nonces: Nonces, clock: Hands, age: int, alive: bool) -> None:
    nonce = nonces.new()
    clock.now += age
    assert nonces.consume(nonce) is alive


def test_one_that_expired_is_gone_whatever_comes_after(nonces: Nonces, clock: Hands) -> None:
    """It is not asked for again, and the younger ones stay."""
    old = nonces.new()
    clock.now += NONCE_SECONDS - 1
    young = nonces.new()
    clock.now += 1
    nonces.new()
    assert (nonces.consume(old), nonces.consume(young)) == (False, True)


def test_concurrent_consumers_get_one_nonce_once(nonces: Nonces) -> None:
    made = [nonces.new() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(nonces.consume, made * 64))
    assert won.count(True) == len(made)


def test_live_ones_are_bounded_and_dead_ones_make_room(
    nonces: Nonces, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NONCES", 3)
    first, *_ = [nonces.new() for _ in range(3)]
    with pytest.raises(ServerError) as caught:
        nonces.new()
    assert caught.value.retry
    assert caught.value.code == "server.nonces"
    assert nonces.consume(first)
    nonces.new()
    clock.now += NONCE_SECONDS
    for _ in range(3):
        nonces.new()


def test_another_server_knows_none_of_them(nonces: Nonces) -> None:
    assert not Nonces().consume(nonces.new())
