"""A signer that says which way it answered, and a client that asks it over one connection."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from functools import partial

from agent.core.errors import UsageError
from agent.daemon import body
from agent.daemon.dispatch import Call, Routes, as_bytes
from agent.daemon.web import Response
from tests.support.doors import handler

HEAD = b"POST /sign%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n"


class Memory:
    """What only those who answer remember: a key, say."""


@dataclass
class Signer:
    """Answers the long way with ``long:BODY`` and the short way with ``short:BODY``, as far as it is told to."""

    short: list[bytes] = field(default_factory=list)
    fails: bool = False
    gives_up: bool = False
    broken: bool = False
    memory: Memory = field(default_factory=Memory)

    async def sign(self, call: Call) -> Response:
        data = b"".join([part async for part in body.chunks(call.request, 1 << 30)])
        response = as_bytes(b"long:" + data, "text/plain", Key="1")
        response.again = partial(self.again, self.memory)
        return response

    def again(self, memory: Memory, data: bytes) -> bytes | None:
        assert memory is self.memory
        if self.broken:
            raise LookupError("a defect")
        if self.fails:
            raise UsageError("no")
        if self.gives_up:
            return None
        self.short.append(data)
        return b"short:" + data

    def routes(self) -> Routes:
        return {"/sign": {"POST": handler(self.sign)}}


def post(data: bytes, query: bytes = b"", more: bytes = b"") -> bytes:
    return HEAD % (query, len(data), more) + data


def answer(sock: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next answer, which comes alone."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += sock.recv(1 << 16)
    head, _, data = found.partition(b"\r\n\r\n")
    (size,) = (int(line.split()[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    while len(data) < size:
        data += sock.recv(1 << 16)
    return head, data


def asked(sock: socket.socket, said: bytes) -> bytes:
    sock.sendall(said)
    return answer(sock)[1]


def undated(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith((b"Date: ", b"Content-Length: "))]
