"""How our own processes talk: one request, one answer, then the connection is closed.

A frame is a u32-be length and that many bytes of JSON. Request ``{"method", "params"}``, answer ``{"result"}`` or
``{"error"}``. The kernel says who asks (agent.daemon.peers); a table says which methods that user may call. Every
read is bounded in bytes and seconds, so no peer can hold the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.core.errors import Denied, FormatError, Oversized, ProtocolError, TeeAgentError, TransportError, UsageError
from agent.core.ports import Deadline
from agent.daemon import problem
from agent.daemon.peers import Caller, Peer, identify

MAX_REQUEST = 64 * 1024
MAX_ANSWER = 2 * 1024 * 1024
"""Bytes of JSON; evidence of a MiB, the most that is read, with its certificate table stays below."""
READ_SECONDS = 5.0
"""For a request to arrive after connect, and for an answer to be taken."""
MAX_CONNECTIONS = 32
PING = "ping"
"""Answers the process id, to whoever may call anything."""

Handler = Callable[[dict[str, Any], Caller], Awaitable[dict[str, Any]]]
_LENGTH = struct.Struct(">I")


class Service:
    """Serves ``methods`` on a listening socket; ``permits`` says which of them a caller may use.

    ``max_request`` are the bytes of a request's JSON.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        permits: Callable[[Caller], frozenset[str]],
        max_request: int = MAX_REQUEST,
    ) -> None:
        self._methods = methods
        self._permits = permits
        self._max_request = max_request
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        # Not start_unix_server: from Python 3.13 on it unlinks the socket at the end, be it the service manager's.
        self._server = await asyncio.start_server(self._connected, sock=sock)

    async def stop(self) -> None:
        """No new connections; those under way end first."""
        if self._server:
            self._server.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        try:
            with identify(writer.get_extra_info("socket")) as peer:
                # Whom nothing is permitted holds no place and is not listened to.
                if task is None or not self._permits(peer.caller) or len(self._connections) >= MAX_CONNECTIONS:
                    return
                self._connections.add(task)
                await self._converse(reader, writer, peer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, Denied):
            return  # the peer left, or never said a whole request: nobody is there to be told
        finally:
            if task:
                self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        try:
            answer = {"result": await self._answer(reader, peer)}
        except TeeAgentError as error:
            answer = {"error": problem.document(error)}
        body = json.dumps(answer).encode()
        writer.write(_LENGTH.pack(len(body)) + body)
        async with asyncio.timeout(READ_SECONDS):
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, peer: Peer) -> dict[str, Any]:
        async with asyncio.timeout(READ_SECONDS):
            request = await _read_frame(reader, self._max_request)
        name, params = request.get("method"), request.get("params")
        if not isinstance(name, str) or not isinstance(params, dict):
            raise FormatError("a request has a method and params", record="request")
        if name == PING:
            return {"pid": os.getpid()}
        if name not in self._permits(peer.caller) or not peer.alive():
            raise Denied(f"uid {peer.caller.uid} may not call {name[:40]!r}", code="denied.peer")
        if name not in self._methods:
            raise UsageError(f"no method {name[:40]!r}")
        return await self._methods[name](params, peer.caller)


async def _read_frame(reader: asyncio.StreamReader, limit: int) -> dict[str, Any]:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > limit:
        raise Oversized(f"a request has {limit} bytes at the most, not {length}", record="request")
    return _parse(await reader.readexactly(length), "request")


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: not JSON", record=what) from error
    if not isinstance(document, dict):
        raise FormatError(f"{what}: not a JSON object", record=what)
    return document


def call(path: Path, method: str, params: Mapping[str, Any], *, deadline: Deadline) -> dict[str, Any]:
    """One call, blocking. Raises what the other process raised, TransportError, DeadlineExceeded, ProtocolError."""
    body = json.dumps({"method": method, "params": params}).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(deadline.remaining())
            sock.connect(str(path))
            sock.sendall(_LENGTH.pack(len(body)) + body)
            answer = _parse(_receive(sock, deadline), "answer")
    except TimeoutError as error:
        deadline.remaining()
        raise TransportError(f"{path}: no answer") from error
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror or error}", hint="is the daemon running?") from error
    except FormatError as error:
        raise ProtocolError(f"{path}: {error.message}") from error
    if isinstance(failed := answer.get("error"), dict):
        raise problem.exception(failed)
    if not isinstance(result := answer.get("result"), dict):
        raise ProtocolError(f"{path}: an answer without a result")
    return result


def _receive(sock: socket.socket, deadline: Deadline) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size, deadline))
    if length > MAX_ANSWER:
        raise FormatError(f"an answer of {length} bytes, {MAX_ANSWER} are allowed")
    return _exactly(sock, length, deadline)


def _exactly(sock: socket.socket, count: int, deadline: Deadline) -> bytes:
    buffer = bytearray()
    while len(buffer) < count:
        sock.settimeout(deadline.remaining())
        chunk = sock.recv(min(count - len(buffer), 1 << 16))
        if not chunk:
            raise FormatError("the connection ended before the answer did")
        buffer += chunk
    return bytes(buffer)
