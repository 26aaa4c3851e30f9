"""The signer's side of releases: whose key opens what comes, the root that is kept, secrets that are not."""

from __future__ import annotations

import asyncio
import base64
import itertools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent.core.config import Config, parse
from agent.core.errors import (
    ConfigError,
    Denied,
    SecretError,
    SecretRefused,
    ServerError,
    TeeAgentError,
    TransportError,
    UsageError,
)
from agent.core.exchange import Wrapped
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.daemon import released
from agent.daemon.allowance import EACH
from agent.daemon.released import Roots, Source, WrappingKeys
from agent.sealing import Sealer
from agent.unseal import WrappingKey
from tests.support.fake_tas import SECRET, wrap

TAS = """
[tas]
url = "http://127.0.0.1:1"
api_key_file = "/k"
"""
WHOLE = TAS + '[sealing]\nroot = "tas"\npolicy_id = "seal"\n[secrets.db]\npolicy_id = "db-1"\n'


class Others:
    """The other two processes: the fetcher wraps ``secret`` to the key that it is given, unless told otherwise."""

    def __init__(self) -> None:
        self.secret = SECRET
        self.failures: list[TeeAgentError] = []
        self.asked: list[str] = []
        self.announced: list[bytes] = []
        self.keys: list[bytes] = []
        self.theirs: WrappingKey | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.derived = 0

    def release(self, what: str, wrapping_key: bytes, *, deadline: Deadline) -> Wrapped:
        self.asked.append(what)
        self.keys.append(wrapping_key)
        assert self.gate.wait(30)
        deadline.remaining()
        if self.failures:
            raise self.failures.pop(0)
        key = self.theirs.public_der if self.theirs else wrapping_key
        parts = {name: base64.b64decode(one) for name, one in wrap(key, self.secret).items()}
        return Wrapped("AES-GCM", parts["wrapped_key"], parts["blob"], parts["iv"], parts["tag"])

    def announce(self, wrapping_key: bytes, *, deadline: Deadline) -> None:
        deadline.remaining()
        self.announced.append(wrapping_key)

    def derived_key(self, *, deadline: Deadline) -> Secret:
        deadline.remaining()
        self.derived += 1
        if self.failures:
            raise self.failures.pop(0)
        return Secret(self.secret)


class World:
    """One signer's roots; ``now`` is its clock."""

    def __init__(self, config: Config) -> None:
        self.others = Others()
        self.now = 0.0
        self.opened_as: list[tuple[str, bool]] = []
        self.failures: list[tuple[str, str]] = []
        self.roots = Roots(config, Source(self.others, self.others, 30.0, 30.0), self, lambda: self.now)

    def opened(self, root_id: str, *, added_root: bool) -> None:
        self.opened_as.append((root_id, added_root))

    def failed(self, what: str, error: TeeAgentError) -> None:
        self.failures.append((what, error.code))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few keys, made once: a new one takes up to a second."""
    taken = itertools.cycle(KEYS)
    monkeypatch.setattr(released, "WrappingKey", lambda: WrappingKey(next(taken)._key))
    monkeypatch.setattr(released, "CHANCE", lambda: 1.0)


KEYS = [WrappingKey() for _ in range(4)]


def run(body: Callable[[World], Coroutine[Any, Any, None]], text: str = WHOLE) -> None:
    async def main() -> None:
        world = World(parse(text, "f"))
        try:
            await body(world)
        finally:
            world.others.gate.set()

    asyncio.run(main())


def test_the_root_is_asked_for_once_and_kept() -> None:
    async def body(world: World) -> None:
        assert world.roots.root_id == ""
        found = await asyncio.gather(*(world.roots.sealer() for _ in range(5)))
        assert await world.roots.sealer() is found[0]
        assert len(set(map(id, found))) == 1
        assert world.others.asked == ["sealing"]
        assert found[0].root_id == Sealer.from_tas(Secret(SECRET), "seal").root_id == world.roots.root_id
        assert world.opened_as == [(found[0].root_id, False)]

    run(body)


def test_every_release_has_a_key_of_its_own_which_the_quoter_was_told_of() -> None:
    async def body(world: World) -> None:
        for _ in range(3):
            with (await world.roots.secret("db", 1)).secret as secret:
                assert secret.reveal() == SECRET
        assert world.others.announced == world.others.keys
        assert len(set(world.others.keys)) == 3
        assert world.others.asked == ["db"] * 3

    run(body)


def test_what_is_wrapped_to_another_key_does_not_open() -> None:
    async def body(world: World) -> None:
        world.others.theirs = KEYS[3]
        with pytest.raises(SecretError) as caught:
            await world.roots.secret("db", 1)
        assert caught.value.code == "secret.wrapped-key"
        with pytest.raises(SecretError):
            await world.roots.sealer()
        assert world.failures == [("root of sealed data", "secret.wrapped-key")]

    run(body)


def test_names_that_are_not_configured() -> None:
    async def body(world: World) -> None:
        for name in ("sealing", "db-1", "seal", "", "other"):
            with pytest.raises(UsageError) as caught:
                await world.roots.secret(name, 0)
            assert caught.value.code == "usage.secret"
        assert world.others.asked == []
        assert world.roots.names == ("db",)

    run(body)


def test_without_a_root() -> None:
    async def body(world: World) -> None:
        with pytest.raises(ConfigError) as caught:
            await world.roots.sealer()
        assert caught.value.code == "config.sealing"
        assert world.roots.root is None
        assert world.others.asked == []

    run(body, TAS)


def test_a_machine_that_is_denied_is_not_a_caller_that_is_denied() -> None:
    async def body(world: World) -> None:
        world.others.failures = [Denied("TEE verification failed", hint="look there", code="denied.attestation")]
        with pytest.raises(SecretError) as caught:
            await world.roots.secret("db", 1)
        assert (caught.value.code, caught.value.hint) == ("secret.refused", "look there")
        assert "TEE verification failed" in caught.value.message

    run(body)


def test_after_a_failure_the_same_is_said_until_a_pause_is_over() -> None:
    async def body(world: World) -> None:
        world.others.failures = [TransportError("down"), Denied("no"), TransportError("down again")]
        for expected in (TransportError, SecretRefused, TransportError):
            for _ in range(3):
                with pytest.raises(expected) as caught:
                    await world.roots.sealer()
                assert type(caught.value) is expected
            world.now += released.PAUSES.cap
        assert world.others.asked == ["sealing"] * 3
        assert len(world.failures) == 3
        assert world.roots.trouble is not None
        await world.roots.sealer()
        assert world.roots.trouble is None

    run(body)


def test_pauses_grow_to_a_minute() -> None:
    async def body(world: World) -> None:
        world.others.failures = [TransportError("down") for _ in range(20)]
        seen = []
        for _ in range(8):
            with pytest.raises(TransportError):
                await world.roots.sealer()
            seen.append(world.roots._again_at - world.now)
            world.now = world.roots._again_at
        assert seen == [2, 4, 8, 16, 32, 60, 60, 60]

    run(body)


def test_who_leaves_takes_nothing_from_the_others() -> None:
    async def body(world: World) -> None:
        world.others.gate.clear()
        leaver, other = (asyncio.create_task(world.roots.sealer()) for _ in range(2))
        await asyncio.sleep(0)
        leaver.cancel()
        await asyncio.sleep(0)
        world.others.gate.set()
        assert (await other).kind == "tas"
        assert world.others.asked == ["sealing"]

    run(body)


def test_a_root_that_is_too_short_is_refused() -> None:
    async def body(world: World) -> None:
        world.others.secret = b"short"
        with pytest.raises(SecretError) as caught:
            await world.roots.sealer()
        assert caught.value.code == "secret.short"

    run(body)


def test_so_many_secrets_and_no_more() -> None:
    async def body(world: World) -> None:
        for _ in range(EACH.burst):
            await world.roots.secret("db", 1)
        with pytest.raises(ServerError) as caught:
            await world.roots.secret("db", 1)
        assert caught.value.code == "server.budget"
        await world.roots.secret("db", 2)
        # The agent's own root is not one of them.
        await world.roots.sealer()

    run(body)


def test_a_derived_root() -> None:
    async def body(world: World) -> None:
        sealer = await world.roots.sealer()
        assert await world.roots.sealer() is sealer
        assert (sealer.kind, sealer.root_id) == ("snp-derived", Sealer.from_snp(Secret(SECRET)).root_id)
        assert (world.others.derived, world.others.asked) == (1, [])

    run(body, '[sealing]\nroot = "snp-derived"\n')


def test_a_derived_root_that_the_quoter_refuses() -> None:
    async def body(world: World) -> None:
        world.others.failures = [Denied("not configured", code="denied.derived-key")]
        with pytest.raises(SecretError):
            await world.roots.sealer()

    run(body, '[sealing]\nroot = "snp-derived"\n')


def test_the_next_wrapping_key_is_made_ahead() -> None:
    async def body(_: World) -> None:
        keys = WrappingKeys()
        first = await keys.take()
        ahead = keys._next
        assert ahead is not None
        assert await keys.take() is await ahead
        others = await asyncio.gather(*(keys.take() for _ in range(4)))
        assert len({id(key) for key in (first, *others)}) == 5

    run(body)
