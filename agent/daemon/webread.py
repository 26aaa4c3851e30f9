"""Makes HTTP requests out of a connection's bytes. httptools parses; what is below decides what we take of it.

httptools is a binding of http-parser (as Debian 13 has it) or of llhttp (its releases since). The first is lenient
where requests get smuggled past a proxy, and neither bounds anything. So the parser gets a head only when it is whole
and in strict form, and a body only as far as its framing is; where the parser's view of where a message ends is
another than ours, the message is refused. Every refusal is a FormatError.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from agent.core.errors import FormatError
from agent.daemon.web import Body, Head, Headers

HEAD_BYTES, HEADERS = 16_384, 64
"""Of a request's head, and its lines of headers."""
VERSIONS = ("1.1", "1.0")
_DIGITS = 18
"""Of a Content-Length."""
_END = b"\r\n\r\n"
LOOSE = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?!\n)|(?<!\r)\n|\n[\t ]")
"""In a head: control characters, CR or LF alone, and a header that goes on in the next line."""
_BEGINNING = re.compile(rb"[A-Z]{0,20}(?:\Z| )")
"""A method. What begins otherwise is told at once: it may never have what would end a head."""
_ONCE = frozenset({"content-length", "content-type", "expect", "host", "transfer-encoding"})
"""Given twice, they leave to the reader which one counts."""
STEPS = 512
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
        for _ in range(STEPS):
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


class _Parsed:
    """One request, parsed by a parser of its own, which calls the methods that begin with ``on_``."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._target = b""
        self._headers: dict[str, str] = {}
        self._count = 0
        self._wrong = ""
        self._begun = self._ended = self._alive = self._other = False
        self._body: Body | None = None
        self._chunks = _Chunks()

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._count += 1
        if " " in key:
            self._wrong = "a header's name with a space"
        elif key not in self._headers:
            self._headers[key] = text
        elif key in _ONCE:
            self._wrong = f"{key} twice"
        else:
            self._headers[key] += f", {text}"

    def on_headers_complete(self) -> None:
        """What the parser forgets with the end of the message is asked here."""
        self._begun = True
        self._alive = self._parser.should_keep_alive()
        self._other = self._parser.should_upgrade()

    def on_body(self, data: bytes) -> None:
        if self._body:
            self._body.feed(data)

    def on_message_complete(self) -> None:
        self._ended = True

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise refused(str(error)) from error

    def head(self, data: bytes) -> Head:
        """Of exactly these bytes."""
        if LOOSE.search(data):
            raise refused("a head that is not in strict form")
        self._feed(data)
        version = self._parser.get_http_version()
        if not self._begun or version not in VERSIONS or self._other:
            raise refused("not a request of HTTP/1.1")
        if self._wrong or self._count > HEADERS:
            raise refused(self._wrong or f"more than {HEADERS} headers")
        length = self._length(version)
        if self._ended != (length == 0):
            raise refused("where the body ends is not clear")
        asks = version != "1.0" and self._headers.get("expect", "").lower() == "100-continue"
        method = self._parser.get_method().decode("ascii")
        return Head(method, *_split(self._target), Headers(self._headers), length, self._alive, asks)

    def _length(self, version: str) -> int | None:
        """Of the body (RFC 9112, 6); None for chunks."""
        length, coding = self._headers.get("content-length", "0"), self._headers.get("transfer-encoding")
        if coding is not None:
            if "content-length" in self._headers or coding.lower() != "chunked" or version == "1.0":
                raise refused("Transfer-Encoding is not chunked alone")
            return None
        if not (length.isascii() and length.isdigit()) or len(length) > _DIGITS:
            raise refused("Content-Length is no length")
        return int(length)

    def chunks(self, data: bytes, body: Body) -> int:
        """As Reader.body, for a body in chunks."""
        self._body = body
        size = self._chunks.checked(data)
        if size:
            # http-parser takes no bytes for the end of the stream.
            self._feed(data[:size])
        if self._ended != self._chunks.over:
            raise refused("where the body ends is not clear")
        if self._ended:
            body.end()
        return size


class Reader:
    """One connection's requests, one after the other: ``head``, then ``body`` until the request's body is complete."""

    def __init__(self) -> None:
        self._bytes = b""
        self._head: Head | None = None
        self._parsed: _Parsed | None = None
        self._left = 0

    def head(self, data: bytes) -> tuple[Head, int] | None:
        """The head at the start of ``data``, and its size; None while it is not whole.

        Most clients say the same again and again: a head of the same bytes as the last is not parsed once more.
        """
        if self._head and self._head.length is not None and data.startswith(self._bytes):
            self._left = self._head.length
            return self._head, len(self._bytes)
        if not _BEGINNING.match(data):
            raise refused("the beginning of no request")
        size = data.find(_END) + len(_END)
        whole = size >= len(_END)
        if (size if whole else len(data)) > HEAD_BYTES:
            raise refused(f"a head of more than {HEAD_BYTES} bytes")
        if not whole:
            if LOOSE.search(data.removesuffix(b"\r")):
                raise refused("the beginning of no request")
            return None
        self._parsed = _Parsed()
        self._head = self._parsed.head(data[:size])
        self._bytes = data[:size]
        self._left = self._head.length or 0
        return self._head, size

    def body(self, data: bytes, body: Body) -> int:
        """Feed the body of the request under way; the number of bytes taken, which may be less than its part is."""
        if self._parsed and self._head and self._head.length is None:
            return self._parsed.chunks(data, body)
        size = min(self._left, len(data))
        self._left -= size
        if size:
            body.feed(data[:size])
        if not self._left:
            body.end()
        return size


def _split(target: bytes) -> tuple[str, str]:
    """Path and query."""
    try:
        url = parse_url(target)
        path, query = (url.path or b"/").decode("ascii"), (url.query or b"").decode("ascii")
        return unquote(path, errors="strict") if "%" in path else path, query
    except (HttpParserError, UnicodeDecodeError) as error:
        raise refused("the target is no path") from error
