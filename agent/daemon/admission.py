"""Admission: who connects to a socket for everybody is identified, counted and timed, whatever is spoken there.

A connection is judged when it is accepted. Slow or silent clients lose their own connection and nobody else's;
nobody holds more than a share, over all sockets together. Those whom nothing is permitted get a few places of their
own, so that they can be told so.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from agent.core.errors import Denied
from agent.daemon.peers import Caller, Peer, identify

MAX_CONNECTIONS, MAX_EACH, MAX_DENIED = 2048, 192, 32
"""At the most: permitted ones, those of one user, and all that are not permitted together."""
FIRST_SECONDS = 10.0
"""For the first request (of HTTP: its head) to be complete after connect."""
AT_ONCE = 8
"""Connections that are taken in one round of the event loop: who comes behind a crowd waits no longer than it must."""
_PAUSE_SECONDS = 0.1


class Permits(Protocol):
    """Says whether there may be anything for a caller here: agent.daemon.guard.Guard, or a list of users."""

    def permits(self, caller: Caller) -> bool: ...


class Guest:
    """One connection's place, until ``leave``. ``permitted``: there may be something that the policy allows it."""

    def __init__(self, peer: Peer, *, permitted: bool, left: Callable[[Guest], None]) -> None:
        self.peer = peer
        self.permitted = permitted
        self._left = left
        self._heard = False
        self._first: asyncio.TimerHandle | None = None

    def watch(self, transport: asyncio.Transport) -> None:
        """Cut it off unless ``spoken`` is called in time, or was already."""
        if not self._heard:
            self._first = asyncio.get_running_loop().call_later(FIRST_SECONDS, transport.abort)

    def spoken(self) -> None:
        """The first request is there."""
        self._heard = True
        if self._first:
            self._first.cancel()
            self._first = None

    def leave(self) -> None:
        """The connection is over: its place is free, the peer let go. May be called again."""
        self.spoken()
        self.peer.close()
        self._left(self)


def _accepted(sock: socket.socket) -> list[socket.socket]:
    """Who waits, AT_ONCE at the most; nobody where who came has left. Raises OSError when there is room for nobody."""
    found: list[socket.socket] = []
    with suppress(BlockingIOError):
        while len(found) < AT_ONCE:
            try:
                found.append(sock.accept()[0])
            except OSError:
                if not found:
                    raise
                break
    return found


async def _readable(sock: socket.socket) -> None:
    """Until there is something to accept, and a round of the loop at the least: refusals alone would hold it up.

    Not loop.sock_accept: cancelled in the round in which somebody connects, it accepts and forgets that connection.
    """
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(sock)


Welcome = Callable[[Guest], Callable[[], asyncio.BaseProtocol]]
"""What a socket speaks: the factory of a guest's protocol, which calls ``leave`` when the connection is lost."""


class Admission:
    """The places of all sockets that share it."""

    def __init__(self, allowed: Permits) -> None:
        self._allowed = allowed
        self._guests: set[Guest] = set()
        self._by_uid: Counter[int] = Counter()
        self._denied = 0
        self._accepting: set[asyncio.Task[None]] = set()

    def count(self) -> int:
        """Open connections, permitted or not."""
        return len(self._guests)

    async def run(self, sock: socket.socket, welcome: Welcome) -> None:
        """Accept until ``stop``. Not more than one socket in a task."""
        if task := asyncio.current_task():
            self._accepting.add(task)
        sock.setblocking(False)
        while True:
            await _readable(sock)
            try:
                accepted = _accepted(sock)
            except OSError:
                # Out of descriptors or memory: what is open goes on, and the pause lets some of it end.
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            await asyncio.gather(*(self._take(each, welcome) for each in accepted))

    def stop(self) -> None:
        """Accept no more, on any socket: who connects now waits for the next process that listens there."""
        for task in self._accepting:
            task.cancel()

    async def _take(self, accepted: socket.socket, welcome: Welcome) -> None:
        try:
            await self._identified(accepted, welcome)
        except (Denied, OSError):
            accepted.close()

    async def _identified(self, accepted: socket.socket, welcome: Welcome) -> None:
        peer = identify(accepted)
        permitted = self._allowed.permits(peer.caller)
        if not self._has_room(peer.caller.uid, permitted=permitted):
            peer.close()
            accepted.close()
            return
        guest = Guest(peer, permitted=permitted, left=self._forget)
        self._guests.add(guest)
        self._by_uid[peer.caller.uid] += 1
        self._denied += not permitted
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(welcome(guest), accepted)
        except BaseException:
            guest.leave()
            raise
        guest.watch(transport)

    def _has_room(self, uid: int, *, permitted: bool) -> bool:
        if not permitted:
            return self._denied < MAX_DENIED
        return len(self._guests) - self._denied < MAX_CONNECTIONS and self._by_uid[uid] < MAX_EACH

    def _forget(self, guest: Guest) -> None:
        if guest in self._guests:
            self._guests.discard(guest)
            self._denied -= not guest.permitted
            uid = guest.peer.caller.uid
            self._by_uid[uid] -= 1
            if not self._by_uid[uid]:
                del self._by_uid[uid]
