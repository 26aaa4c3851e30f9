"""When the signer's selector looks instead of sleeping: counted looks, never times."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from agent.daemon import eager
from agent.daemon.eager import EagerSelector

LONG = 0.4
"""Seconds: far longer than the window in which looking pays."""


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The time limit of each look at the kernel's list."""
    found: list[float | None] = []
    real = selectors.EpollSelector.select

    def counted(self: selectors.EpollSelector, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found.append(timeout)
        return real(self, timeout)

    monkeypatch.setattr(selectors.EpollSelector, "select", counted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    # Wide enough for a slow machine: what was ready at once was ready within it.
    monkeypatch.setattr(eager, "WINDOW_SECONDS", 0.2)
    return found


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_an_idle_one_sleeps_at_once(looks: list[float | None], pair: tuple[socket.socket, socket.socket]) -> None:
    with EagerSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        for _ in range(3):
            assert selector.select(LONG) == []
    assert looks == [LONG] * 3


def test_after_a_short_sleep_it_looks_before_it_sleeps(
    looks: list[float | None], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    with EagerSelector() as selector:
        selector.register(ours, selectors.EVENT_READ)
        theirs.send(b"x")
        assert selector.select(LONG)[0][0].fileobj is ours
        assert looks == [LONG]
        assert selector.select(LONG)[0][1] == selectors.EVENT_READ
        assert looks == [LONG, 0], "what is there is found by looking"
        ours.recv(1)
        looks.clear()
        assert selector.select(LONG) == []
        assert looks[-1] == LONG
        assert set(looks[:-1]) == {0}, "it looked, in vain"
        looks.clear()
        assert selector.select(LONG) == []
        assert looks == [LONG], "in vain once: it sleeps"


def test_who_does_not_wait_looks_once(looks: list[float | None], pair: tuple[socket.socket, socket.socket]) -> None:
    with EagerSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        pair[1].send(b"x")
        for timeout in (LONG, 0, -1, 0.001):
            assert len(selector.select(timeout)) == 1
    assert looks[:3] == [LONG, 0, -1]


def test_on_one_processor_it_never_looks(
    looks: list[float | None], pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with EagerSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        pair[1].send(b"x")
        for _ in range(3):
            assert len(selector.select(LONG)) == 1
    assert looks == [LONG] * 3
