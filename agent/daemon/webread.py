"""Makes HTTP requests out of a connection's bytes. httptools parses; what is below decides what we take of it.

httptools is a binding of http-parser (as Debian 13 has it) or of llhttp (its releases since). The first is lenient
where requests get smuggled past a proxy, and neither bounds anything. So the parser gets a head only when it is whole
and in strict form, and a body only as far as its framing is; where the parser's view of where a message ends is
another than ours, the message is refused. Every refusal is a FormatError.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from agent.core.errors import FormatError
from agent.daemon.web import Body, Headers, Request

HEAD_BYTES, HEADERS = 16_384, 64
"""Of a request's head, and its lines of headers."""
VERSIONS = ("1.1", "1.0")
_END = b"\r\n\r\n"
_LOOSE = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?!\n)|(?<!\r)\n|\n[\t ]")
"""In a head: control characters, CR or LF alone, and a header that goes on in the next line."""
_ONCE = frozenset({"content-length", "content-type", "expect", "host", "transfer-encoding"})
"""Given twice, they leave to the reader which one counts."""
_STEPS = 512
"""Chunks that are looked at before others have their turn."""


class _Line(NamedTuple):
    """What comes next in a body in chunks, and what of it may be there while it is not whole."""

    whole: re.Pattern[bytes]
    begun: re.Pattern[bytes]


_EXTENSION = rb"(?:;[\t -~]{0,80})?"
_FIRST = _Line(
    re.compile(rb"([0-9A-Fa-f]{1,15})" + _EXTENSION + rb"\r\n"),
    re.compile(rb"[0-9A-Fa-f]{0,15}" + _EXTENSION + rb"\r?"),
)
_NEXT = _Line(
    re.compile(rb"\r\n" + _FIRST.whole.pattern),
    re.compile(rb"\r?|\r\n" + _FIRST.begun.pattern),
)
_LAST = _Line(re.compile(rb"\r\n"), re.compile(rb"\r?"))


def refused(why: str) -> FormatError:
    return FormatError(f"HTTP: {why}", record="request")


class _Chunks:
    """Where a body in chunks ends (RFC 9112, 7.1), as far as its framing is in strict form. Trailers are refused."""

    def __init__(self) -> None:
        self._left = 0
        self._line = _FIRST
        self.over = False

    def checked(self, data: bytes) -> int:
        """Bytes at the start of ``data`` that are well framed; a line that is not whole waits for the next call."""
        at = 0
        for _ in range(_STEPS):
            part = min(self._left, len(data) - at)
            self._left -= part
            at += part
            if self._left or not (line := self._next(data, at)):
                break
            at += line
            if self.over:
                break
        return at

    def _next(self, data: bytes, at: int) -> int:
        """Bytes of the line that comes next; 0 while it is not whole."""
        found = self._line.whole.match(data, at)
        if found is None:
            if self._line.begun.fullmatch(data, at):
                return 0
            raise refused("a chunk that is not in strict form")
        if self._line is _LAST:
            self.over = True
        else:
            self._left = int(found[1], 16)
            self._line = _NEXT if self._left else _LAST
        return found.end() - at


class Reader:
    """One connection's requests, one after the other: ``head``, then ``body`` until the request's body is complete."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._count = 0
        self._whole_head = self._whole = False
        self._twice = ""
        self._body: Body | None = None
        self._length = 0
        self._chunks: _Chunks | None = None

    # The parser calls these.

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._count += 1
        if key not in self._headers:
            self._headers[key] = text
        elif key in _ONCE:
            self._twice = key
        else:
            self._headers[key] += f", {text}"

    def on_headers_complete(self) -> None:
        self._whole_head = True

    def on_body(self, data: bytes) -> None:
        if self._body:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        self._whole = True

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise refused(str(error)) from error

    # The connection calls these.

    def head(self, data: bytes, make: Callable[[bool], Body]) -> tuple[Request, int] | None:
        """The request at the start of ``data``, and how many bytes its head has; None while it is not whole.

        ``make`` makes its body, and is told whether the client waits to be asked for it (Expect: 100-continue).
        """
        size = data.find(_END) + len(_END)
        if size < len(_END):
            size = 0
        if (size or len(data)) > HEAD_BYTES:
            raise refused(f"a head of more than {HEAD_BYTES} bytes")
        if not size:
            return None
        head = data[:size]
        if _LOOSE.search(head):
            raise refused("a head that is not in strict form")
        self._target, self._headers, self._count, self._body = b"", {}, 0, None
        self._whole_head = self._whole = False
        self._feed(head)
        return self._request(make), size

    def _request(self, make: Callable[[bool], Body]) -> Request:
        version, headers = self._parser.get_http_version(), self._headers
        if not self._whole_head or version not in VERSIONS or self._parser.should_upgrade():
            raise refused("not a request of HTTP/1.1")
        if self._twice or self._count > HEADERS or any(" " in name for name in headers):
            raise refused("headers that are no headers, twice there or too many")
        self._frame(version)
        path, query = self._split()
        waits = version != "1.0" and headers.get("expect", "").lower() == "100-continue"
        self._body = make(waits)
        if self._whole:
            self._body.end()
        return Request(
            self._parser.get_method().decode("ascii"),
            path,
            query,
            Headers(headers),
            self._body,
            length=None if self._chunks else self._length,
            keep_alive=self._parser.should_keep_alive(),
        )

    def _frame(self, version: str) -> None:
        """How the body is delimited (RFC 9112, 6)."""
        length, coding = self._headers.get("content-length"), self._headers.get("transfer-encoding")
        self._length, self._chunks = 0, None
        if coding is not None:
            if length is not None or coding.lower() != "chunked" or version == "1.0":
                raise refused("Transfer-Encoding is not chunked alone")
            self._chunks = _Chunks()
        elif length is not None:
            if not (length.isascii() and length.isdigit()) or len(length) > 18:
                raise refused("Content-Length is no length")
            self._length = int(length)
        if self._whole != (self._length == 0 and self._chunks is None):
            raise refused("the body's end is not clear")

    def _split(self) -> tuple[str, str]:
        """Path and query."""
        try:
            url = parse_url(self._target)
            path, query = (url.path or b"/").decode("ascii"), (url.query or b"").decode("ascii")
            return unquote(path, errors="strict") if "%" in path else path, query
        except (HttpParserError, UnicodeDecodeError) as error:
            raise refused("the target is no path") from error

    def body(self, data: bytes) -> int:
        """Feed the body of the request under way; the number of bytes taken, which may be less than its part is."""
        if self._chunks:
            size = self._chunks.checked(data)
            over = self._chunks.over
        else:
            size = min(self._length, len(data))
            self._length -= size
            over = not self._length
        self._feed(data[:size])
        if self._whole != over:
            raise refused("the body's end is not clear")
        if over and self._body:
            self._body.end()
        return size
