"""What ends a process: an order, or a part of it that came to an end; and defects of work that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent.core.errors import ConfigError, TeeAgentError
from agent.daemon.tasks import Tasks, until_stopped


def ended(part: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Waits beside ``part``, and one that goes on for ever."""

    async def main() -> None:
        stop = asyncio.Event()

        async def run() -> None:
            await part(stop)

        async def always() -> None:
            await asyncio.Event().wait()

        tasks = [asyncio.create_task(each) for each in (run(), always())]
        try:
            await asyncio.wait_for(until_stopped(stop, tasks), 60)
        finally:
            for task in tasks:
                task.cancel()

    asyncio.run(main())


def test_an_order_ends_it_well() -> None:
    async def part(stop: asyncio.Event) -> None:
        stop.set()
        await asyncio.Event().wait()

    ended(part)


def test_a_part_that_fails_ends_it_with_its_error() -> None:
    async def part(_: asyncio.Event) -> None:
        raise ConfigError("broken")

    with pytest.raises(ConfigError, match="broken"):
        ended(part)


def test_a_part_that_just_ends_is_no_good_end() -> None:
    """Status 0 would be what was asked for: no service manager would start it again."""

    async def part(_: asyncio.Event) -> None:
        await asyncio.sleep(0)

    with pytest.raises(TeeAgentError, match="came to its end") as caught:
        ended(part)
    assert caught.value.exit_status


def test_a_defect_is_told_though_nobody_waits_and_a_failure_is_not() -> None:
    told: list[object] = []

    async def fail(error: Exception) -> None:
        raise error

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))
        tasks = Tasks()
        await asyncio.wait([tasks.start(fail(error)) for error in (ZeroDivisionError("x"), ConfigError("y"))])
        leaving = tasks.start(asyncio.sleep(60))
        leaving.cancel()
        await asyncio.wait([leaving])

    asyncio.run(main())
    assert [type(error) for error in told] == [ZeroDivisionError]
