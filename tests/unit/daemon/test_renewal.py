"""Another TCB in any evidence renews every key once: seen by the quotes' wrapper, told once, not without end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.core.model import Evidence, Tee
from agent.daemon import renewal
from agent.daemon.renewal import Renewal, Watched
from tests.support.batches import Batches
from tests.support.quotes import FakeQuotes
from tests.support.waiting import until

OLD, NEW, NEWER = b"old", b"new", b"newer"


class Machine(FakeQuotes):
    """Its evidence begins with the TCB that it has at the moment."""

    def __init__(self) -> None:
        super().__init__()
        self.tcb = OLD
        self.flapping = False

    def _evidence(self, *asked: object) -> Evidence:
        if self.flapping:
            self.tcb = NEW if self.tcb == NEWER else NEWER
        made = super()._evidence(*asked)
        return Evidence(Tee.SNP, self.tcb + b"|" + made.blob, b"", "fake")


class World:
    """A signer whose quotes are watched."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.told: list[tuple[bytes, bytes]] = []
        self.renewal = Renewal(lambda before, after: self.told.append((before, after)))
        self.batches = Batches(quotes=Watched(self.machine, self.renewal.seen))

    def tcbs(self) -> list[bytes]:
        """Of the agent's own key and all named ones."""
        held = self.batches.ring.held
        return [key.tcb for key in (*([held] if held else []), *self.batches.named.all())]


@pytest.fixture(autouse=True)
def _readable(monkeypatch: pytest.MonkeyPatch) -> None:
    def tcb_of(_: Tee, blob: bytes) -> bytes:
        return blob.partition(b"|")[0] if b"|" in blob else b""

    monkeypatch.setattr("agent.daemon.renewal.tcb_of", tcb_of)
    monkeypatch.setattr("agent.daemon.keys.tcb_of", tcb_of)


def with_world(body: Callable[[World], Awaitable[None]], pause: float = 0.0) -> None:
    world = World()

    async def beside(_: Batches) -> None:
        task = asyncio.create_task(world.renewal.run(world.batches.ring, world.batches.named, pause))
        await asyncio.sleep(0)
        for name in ("one", "two"):
            await world.batches.key(name)
        await body(world)
        task.cancel()

    world.batches.run(beside)


def test_a_challenge_that_shows_another_tcb_renews_every_key_the_agents_own_first() -> None:
    async def body(world: World) -> None:
        assert world.tcbs() == [OLD] * 3
        ids = [key.attachments.key_sha256 for key in world.batches.named.all()]
        own = world.batches.ring.held
        before = len(world.machine.asked)
        world.machine.tcb = NEW
        await world.batches.ask(1)
        await until(lambda: world.tcbs() == [NEW] * 3)
        assert world.told == [(OLD, NEW)]
        asked = [purpose for purpose, *_ in world.machine.asked[before:]]
        assert asked == ["challenge_batch"] + ["signing_key"] * 3
        held = world.batches.ring.held
        assert own
        assert held
        assert world.machine.asked[before + 1][3] == held.attachments.spki != own.attachments.spki
        assert [key.attachments.key_sha256 for key in world.batches.named.all()] == ids

    with_world(body)


def test_a_new_key_that_shows_another_tcb_renews_the_others_and_not_itself() -> None:
    async def body(world: World) -> None:
        world.machine.tcb = NEW
        before = len(world.machine.asked)
        await world.batches.key("three")
        await until(lambda: world.tcbs() == [NEW] * 4)
        assert len(world.machine.asked) == before + 4
        assert world.told == [(OLD, NEW)]

    with_world(body)


def test_the_same_tcb_renews_nothing() -> None:
    async def body(world: World) -> None:
        before = len(world.machine.asked)
        for number in range(5):
            await world.batches.ask(number)
        assert len(world.machine.asked) == before + 5
        assert world.told == []

    with_world(body)


def test_evidence_that_can_not_be_read_is_no_change() -> None:
    async def body(world: World) -> None:
        for seen in (b"", OLD, b"", OLD):
            world.renewal.seen(seen)
        await asyncio.sleep(0.01)
        assert world.told == []
        world.machine.tcb = NEW
        for seen in (b"", NEW):
            world.renewal.seen(seen)
        await until(lambda: world.told == [(OLD, NEW)])

    with_world(body)


def test_a_host_that_changes_with_every_quote_gets_one_renewal_of_each_key() -> None:
    async def body(world: World) -> None:
        before = len(world.machine.asked)
        world.machine.flapping = True
        await world.batches.ask(1)
        await until(lambda: OLD not in world.tcbs())
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(world.machine.asked) == before + 4

    with_world(body, pause=60.0)


def test_what_changed_during_the_pause_is_renewed_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    paused, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        paused.set()
        await go_on.wait()

    async def body(world: World) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(renewal, "asyncio", Patched(sleep))
            world.machine.tcb = NEW
            await world.batches.ask(1)
            await until(lambda: world.tcbs() == [NEW] * 3)
            await paused.wait()
            world.machine.tcb = NEWER
            await world.batches.ask(2)
            assert world.tcbs() == [NEW] * 3
            go_on.set()
            await until(lambda: world.tcbs() == [NEWER] * 3)
        assert world.told == [(OLD, NEW), (NEW, NEWER)]

    with_world(body)


class Patched:
    """asyncio with another sleep."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> object:
        return getattr(asyncio, name)
