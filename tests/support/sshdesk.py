"""Sessions of ssh clients over named keys that need no hardware, with this process as the client."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

from agent.core.access import Decision, Members, Rules, Wish
from agent.core.sshwire import PublicKey
from agent.daemon.admission import Guest
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.named import NamedKey
from agent.daemon.peers import Caller, identify
from agent.daemon.sshapi import Session, SshApi
from agent.verify.signature import verifies
from tests.support import named, ssh

ME = os.getuid()


class Told:
    """An audit log that is a list, of signatures only: ssh clients change no keys."""

    def __init__(self) -> None:
        self.signatures: list[str] = []

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        assert caller.uid == ME
        self.signatures += [key_id] * count


class Desk:
    """Sessions over keys that need no hardware."""

    def __init__(self, world: named.World, rules: Rules) -> None:
        self.world = world
        self.denied: list[tuple[Wish, Decision]] = []
        self.told = Told()
        self.guard = Guard(lambda: rules, lambda _, wish, decision: self.denied.append((wish, decision)))
        self.api = SshApi(world.keys, self.guard, Reports(cast(Any, self.told)))

    async def key(
        self, name: str = "a", algorithm: str = "Ed25519", use: str = "ssh", namespace: str = "uid-0"
    ) -> NamedKey:
        return await self.world.keys.create(namespace, name, algorithm, use)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session with this process as its client."""
        here, there = socket.socketpair()
        with here, there, identify(here) as peer:
            permitted = self.guard.permits(peer.caller)
            yield Session(self.api, Guest(peer, permitted=permitted, left=lambda _: None))

    async def ask(self, *frames: bytes) -> list[bytes]:
        """The answers in one session, without their lengths."""
        with self.session() as session:
            return [(await session.answer(frame[4:]))[4:] for frame in frames]


def run(body: Callable[[Desk], Coroutine[Any, Any, None]], rules: Rules | None = None) -> None:
    async def main(world: named.World) -> None:
        await body(Desk(world, rules or Rules(members=Members(frozenset({ME})))))

    named.run(main)


def encoded(key: NamedKey) -> PublicKey:
    return PublicKey.of(key.attachments.spki)


def sign_file(key: NamedKey, namespace: str = "file") -> bytes:
    return ssh.signing(encoded(key).blob, ssh.file(namespace))


def sign_login(key: NamedKey, **more: Any) -> bytes:
    return ssh.signing(encoded(key).blob, ssh.login(encoded(key), **more))


def is_signature(answer: bytes, key: NamedKey, data: bytes) -> bool:
    assert answer[0] == 14
    made = encoded(key).unwrap(answer[5:])
    assert len(answer) == 5 + int.from_bytes(answer[1:5], "big")
    return verifies(key.algorithm, key.attachments.spki, made, data)
