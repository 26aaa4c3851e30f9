"""Threads beside the event loop: how many there are at a time, whoever asks for how much, and when there are none left."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.core.access import Members, Rules
from agent.core.errors import ServerError
from agent.core.sealconfig import RESERVED
from agent.daemon import journal, released, sealapi, sockets
from agent.daemon.allowance import TOTAL
from agent.daemon.dispatch import Dispatch
from agent.daemon.front import Front
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.payloads import Memory
from agent.daemon.released import Roots, Source, WrappingKeys
from agent.daemon.sealapi import SealApi
from agent.daemon.threads import in_thread, in_thread_or_here
from tests.support.waiting import PATIENCE, awaited, until


def threads() -> frozenset[str]:
    """Of this process, as the kernel has them: those of a test before may still be about to end."""
    return frozenset(each.name for each in Path("/proc/self/task").iterdir())


class Gate:
    """What threads run into, until it is opened."""

    def __init__(self) -> None:
        self._open, self._lock = threading.Event(), threading.Lock()
        self.inside = self.passed = 0

    def go_through(self) -> int:
        with self._lock:
            self.inside += 1
        assert self._open.wait(PATIENCE)
        with self._lock:
            self.passed += 1
            return self.passed

    def open(self) -> None:
        self._open.set()


def run(body: Callable[[Gate], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        gate = Gate()
        try:
            async with asyncio.timeout(PATIENCE):
                await body(gate)
        finally:
            gate.open()

    asyncio.run(main())


def test_places_bound_the_threads_and_everybody_has_a_turn() -> None:
    async def body(gate: Gate) -> None:
        before, places = threads(), asyncio.Semaphore(3)
        tasks = [asyncio.create_task(in_thread(gate.go_through, places)) for _ in range(40)]
        await until(lambda: gate.inside == 3)
        assert len(threads() - before) == 3
        gate.open()
        assert sorted(await asyncio.gather(*tasks)) == list(range(1, 41))

    run(body)


def test_who_leaves_gives_the_place_back_when_the_thread_has_ended() -> None:
    async def body(gate: Gate) -> None:
        before, places = threads(), asyncio.Semaphore(2)
        leaving = [asyncio.create_task(in_thread(gate.go_through, places)) for _ in range(2)]
        await until(lambda: gate.inside == 2)
        for each in leaving:
            each.cancel()
        waiting = [asyncio.create_task(in_thread(gate.go_through, places)) for _ in range(10)]
        await asyncio.wait(leaving)
        waiting.pop().cancel()
        assert (gate.inside, len(threads() - before)) == (2, 2)
        gate.open()
        await asyncio.gather(*waiting)
        await until(lambda: gate.passed == 11)

    run(body)


def full(tried: list[int]) -> None:
    tried.append(1)
    raise ServerError("full", code="server.audit")


def test_no_thread_left_is_an_error_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where TasksMax= is reached."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        places = asyncio.Semaphore(1)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for each in (None, places, places):
                with pytest.raises(ServerError) as caught:
                    await in_thread(lambda: None, each)
                assert (caught.value.code, "TasksMax" in caught.value.hint) == ("server.threads", True)
            # What must happen happens where it is.
            assert await in_thread_or_here(threading.get_ident, places) == threading.get_ident()
        assert await in_thread(lambda: 7, places) == 7
        assert await in_thread_or_here(threading.get_ident, places) != threading.get_ident()
        tried: list[int] = []
        with pytest.raises(ServerError) as caught:
            await in_thread_or_here(partial(full, tried), places)
        assert (caught.value.code, len(tried)) == ("server.audit", 1)

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_a_flood_of_data_to_seal_has_few_threads(tmp_path: Path) -> None:
    """What may be held in memory is enough for a thousand."""
    count, size, gate, memory = 60, sealapi.AT_ONCE + 1, Gate(), Memory()

    async def sealer() -> Any:
        def seal(*_: object) -> bytes:
            return b"sealed %d" % gate.go_through()

        return SimpleNamespace(seal=seal, root_id="root")

    def client(path: Path) -> None:
        before, head = (
            threads(),
            b"POST /v1/seal HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n",
        )
        open_ = [socket.socket(socket.AF_UNIX) for _ in range(count)]
        for sock in open_:
            sock.settimeout(60)
            sock.connect(str(path))
            sock.sendall(head % size + bytes(size))
        awaited(lambda: memory.held, lambda held: held == count * size)
        awaited(lambda: gate.inside, lambda inside: inside >= sealapi.THREADS)
        assert len(threads() - before) == sealapi.THREADS
        gate.open()
        for sock in open_:
            with sock:
                assert b"".join(iter(partial(sock.recv, 1 << 16), b"")).startswith(b"HTTP/1.1 200 ")

    async def main() -> None:
        guard = Guard(lambda: Rules(members=Members(frozenset({os.getuid()}))))
        api = SealApi(cast("Roots", SimpleNamespace(sealer=sealer)), Reports(), memory)
        front, listener = Front(guard), sockets.listen(tmp_path, "door")
        task = asyncio.create_task(front.run(listener.sock, Dispatch({"/v1/seal": {"POST": api.seal}}, guard)))
        try:
            await asyncio.to_thread(client, listener.path)
        finally:
            gate.open()
            task.cancel()
            await front.drain()
            listener.sock.close()
            os.close(listener.lock)

    asyncio.run(main())
    assert (gate.passed, memory.held) == (count, 0)


class SlowDisk:
    """A journal that is as slow as the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.kinds: list[str] = []

    def event(self, kind: str, *, severity: str, caller: Mapping[str, Any] | None = None, **_: Any) -> None:
        del severity, caller
        self._gate.go_through()
        self.kinds.append(kind)


def test_a_flood_of_events_has_few_threads_and_loses_none() -> None:
    """As when all named keys come to their end in one second."""

    async def body(gate: Gate) -> None:
        before, disk = threads(), SlowDisk(gate)
        reports = Reports(cast("journal.Journal", disk))
        told = [asyncio.create_task(reports.tell(f"event.{number}", "info")) for number in range(100)]
        await until(lambda: gate.inside == journal.AT_ONCE)
        assert len(threads() - before) == journal.AT_ONCE
        gate.open()
        await asyncio.gather(*told)
        assert sorted(disk.kinds) == sorted(f"event.{number}" for number in range(100))

    run(body)


def test_who_asks_for_secrets_and_leaves_has_few_threads_and_the_root_waits_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = SimpleNamespace(public_der=b"", unseal=lambda _: None)
    monkeypatch.setattr(released, "WrappingKey", lambda: key)

    async def body(gate: Gate) -> None:
        asked: list[str] = []

        def release(what: str, *_: object, **__: object) -> Any:
            asked.append(what)
            gate.go_through()
            return SimpleNamespace(added_root=False)

        others: Any = SimpleNamespace(release=release, announce=lambda *_, **__: None)
        before, source = threads(), Source(others, others, 30.0, 30.0)
        asking = [asyncio.create_task(source.released("db")) for _ in range(TOTAL.places)]
        await until(lambda: gate.inside == TOTAL.places)
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
        more = [asyncio.create_task(source.released("db")) for _ in range(40)]
        root = asyncio.create_task(source.released(RESERVED))
        await until(lambda: gate.inside == TOTAL.places + 1)
        assert asked == ["db"] * TOTAL.places + [RESERVED]
        assert len(threads() - before) <= TOTAL.places + 1 + released.KEYS_AT_ONCE
        gate.open()
        await asyncio.gather(root, *more)

    run(body)


def test_wrapping_keys_are_made_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(gate: Gate) -> None:
        monkeypatch.setattr(released, "WrappingKey", gate.go_through)
        before, keys = threads(), WrappingKeys()
        taken = [asyncio.create_task(keys.take()) for _ in range(20)]
        await until(lambda: gate.inside == released.KEYS_AT_ONCE)
        assert len(threads() - before) == released.KEYS_AT_ONCE
        gate.open()
        assert len(set(await asyncio.gather(*taken))) == 20

    run(body)
