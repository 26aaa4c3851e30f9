"""Bytes of HTTP requests, what the signer's reader makes of them, and a parser that takes too much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.daemon.web import Body, Head
from agent.daemon.webread import Reader

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def head(*lines: bytes, first: bytes = b"POST /a?b=1 HTTP/1.1") -> bytes:
    return b"\r\n".join((first, b"Host: a", *lines, b"", b""))


CHUNKED = head(b"Transfer-Encoding: chunked")


def read(pieces: Iterator[bytes] | list[bytes]) -> Iterator[tuple[Head, bytes]]:
    """Every request of these pieces of a connection, with its body."""
    reader, data, request = Reader(), b"", None
    body = Body(lambda _: None)
    for piece in pieces:
        data += piece
        while True:
            if request is None:
                found = reader.head(data)
                if found is None:
                    break
                request, size = found
                data, body = data[size:], Body(lambda _: None)
            size = reader.body(data, body)
            data = data[size:]
            if body.complete:
                yield request, body.take()
                request = None
            elif not size:
                break
    assert request is None
    assert data == b""


def one(data: bytes) -> tuple[Head, bytes]:
    (found,) = read([data])
    return found


class Lenient:
    """What http-parser 2.9.4 (Debian 13) makes of some heads that llhttp refuses, recorded there."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._upgrade = False

    def feed_data(self, data: bytes) -> None:
        self._upgrade = b"Upgrade" in data
        self._protocol.on_url(b"/")
        for line in data.split(b"\n")[1:]:
            name, colon, value = line.strip(b"\r").partition(b":")
            if colon:
                self._protocol.on_header(name, value.strip())
        self._protocol.on_headers_complete()
        self._protocol.on_message_complete()

    def get_http_version(self) -> str:
        return "1.1"

    def get_method(self) -> bytes:
        return b"GET"

    def should_keep_alive(self) -> bool:
        return True

    def should_upgrade(self) -> bool:
        return self._upgrade
