"""The fetcher's side of a release: configured policies only, bounded, and over when the daemon stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent.core.canonical import b64
from agent.core.errors import DeadlineExceeded, Denied, FormatError, ProtocolError, ServerError, UsageError
from agent.core.exchange import Wrapped
from agent.core.ports import Deadline
from agent.daemon import fetcher, releases
from agent.daemon.peers import Caller
from agent.daemon.releases import Releases
from agent.daemon.remote import wrapped_from, wrapped_to
from tests.support.waiting import until

SIGNER = Caller(1, 10, 10, (), "")
WRAPPED = Wrapped("AES-GCM", b"k" * 384, b"blob", b"i" * 12, b"t" * 16, added_root=True)
WANTED = {"sealing": "policy-s", "db": "policy-db"}


class Service:
    """Answers when ``gate`` is open."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    def fetch(self, policy_id: str, key: bytes, deadline: Deadline) -> Wrapped:
        self.asked.append((policy_id, key))
        assert self.gate.wait(30)
        deadline.remaining()
        if self.failures:
            raise self.failures.pop()
        return WRAPPED


def run(body: Callable[[Releases, Service], Coroutine[Any, Any, None]], seconds: float = 30.0) -> None:
    async def main() -> None:
        service = Service()
        try:
            await body(Releases(WANTED, service.fetch, seconds), service)
        finally:
            service.gate.set()

    asyncio.run(main())


def params(what: str, key: bytes = b"key", **more: Any) -> dict[str, Any]:
    return {"what": what, "wrapping_key": b64(key), **more}


def test_the_configuration_says_which_policy_it_is() -> None:
    async def body(desk: Releases, service: Service) -> None:
        assert wrapped_from(await desk.release(params("sealing"), SIGNER)) == WRAPPED
        await desk.release(params("db", b"other"), SIGNER)
        assert service.asked == [("policy-s", b"key"), ("policy-db", b"other")]

    run(body)


@pytest.mark.parametrize("what", ["policy-s", "policy-db", "disk", "", "Sealing", "db\0", "x" * 64])
def test_no_policy_can_be_asked_for(what: str) -> None:
    async def body(desk: Releases, service: Service) -> None:
        with pytest.raises((UsageError, FormatError)):
            await desk.release(params(what), SIGNER)
        assert service.asked == []

    run(body)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"what": "db"},
        params("db", policy_id="disk"),
        params("db", nonce="ab" * 32),
        params("db", b""),
        params("db", b"x" * 5000),
        {"what": "db", "wrapping_key": "*"},
        {"what": ["db"], "wrapping_key": "QUJD"},
        params("x" * 65),
    ],
    ids=str,
)
def test_requests_of_another_form(given: dict[str, Any]) -> None:
    async def body(desk: Releases, service: Service) -> None:
        with pytest.raises(FormatError):
            await desk.release(given, SIGNER)
        assert service.asked == []

    run(body)


def test_what_the_service_says_comes_through() -> None:
    async def body(desk: Releases, service: Service) -> None:
        service.failures = [Denied("no", code="denied.attestation")]
        with pytest.raises(Denied) as caught:
            await desk.release(params("db"), SIGNER)
        assert caught.value.code == "denied.attestation"
        await desk.release(params("db"), SIGNER)

    run(body)


async def under_way(desk: Releases, count: int, service: Service) -> list[asyncio.Task[dict[str, Any]]]:
    tasks = [asyncio.create_task(desk.release(params("db"), SIGNER)) for _ in range(count)]
    await until(lambda: len(service.asked) >= min(count, releases.AT_A_TIME))
    return tasks


def test_a_few_at_a_time_and_no_more_than_so_many() -> None:
    async def body(desk: Releases, service: Service) -> None:
        service.gate.clear()
        tasks = await under_way(desk, releases.MAX_WAITING, service)
        assert len(service.asked) == releases.AT_A_TIME
        with pytest.raises(ServerError) as caught:
            await desk.release(params("db"), SIGNER)
        assert caught.value.code == "server.budget"
        service.gate.set()
        await asyncio.gather(*tasks)
        assert len(service.asked) == releases.MAX_WAITING
        await desk.release(params("db"), SIGNER)

    run(body)


def test_waiting_counts() -> None:
    async def body(desk: Releases, service: Service) -> None:
        with pytest.raises(DeadlineExceeded):
            await desk.release(params("db"), SIGNER)
        assert service.asked == []

    run(body, seconds=0.0)


def test_at_a_stop_nobody_is_kept_waiting() -> None:
    async def body(desk: Releases, service: Service) -> None:
        service.gate.clear()
        tasks = await under_way(desk, 6, service)
        desk.close()
        for task in tasks:
            with pytest.raises(ServerError, match="stopped"):
                await task
        with pytest.raises(ServerError):
            await desk.release(params("db"), SIGNER)

    run(body)


def test_who_may_ask_the_fetcher_for_what() -> None:
    may = fetcher.permits(signer_uid=10, fetcher_uid=20)
    assert "release" in may(Caller(1, 10, 10, (), ""))
    for uid in (0, 20):
        assert may(Caller(1, uid, uid, (), "")) == {"state"}
    assert may(Caller(1, 30, 30, (), "")) == frozenset()


@pytest.mark.parametrize(
    "changed",
    [
        {"algorithm": "AES-CBC"},
        {"algorithm": ""},
        {"wrapped_key": ""},
        {"wrapped_key": b64(bytes(2000))},
        {"iv": b64(bytes(11))},
        {"tag": ""},
        {"algorithm": "AES-KWP"},
        {"algorithm": "AES-KWP", "iv": "", "tag": "", "blob": b64(bytes(15))},
        {"blob": "*"},
        {"more": 1},
    ],
    ids=str,
)
def test_the_signer_believes_no_form_of_the_fetcher_s(changed: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        wrapped_from({**wrapped_to(WRAPPED), **changed})


def test_there_and_back() -> None:
    other = Wrapped("AES-KWP", b"k", bytes(24), b"", b"")
    for wrapped in (WRAPPED, other):
        assert wrapped_from(wrapped_to(wrapped)) == wrapped
    # Anything but a plain no counts as an added root.
    assert wrapped_from({**wrapped_to(other), "added_root": None}).added_root
