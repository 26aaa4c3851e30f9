"""Requests out of bytes: what is taken, in whatever pieces it comes, and what is refused however a parser takes it."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError
from agent.daemon import webread
from agent.daemon.web import Body
from agent.daemon.webread import HEAD_BYTES, HEADERS, Reader
from tests.support.webreads import CHUNKED, NEXT, Lenient, head, one, read


def test_what_a_head_says() -> None:
    data = head(b"Accept: a", b"ACCEPT: b", b"Content-Type: Text/Plain; charset=x", b"X-Empty:", b"Content-Length: 2")
    found, body = one(data + b"ab")
    assert (found.method, found.path, found.query_string, found.length) == ("POST", "/a", "b=1", 2)
    assert (found.headers.get("accept"), found.headers.get("x-empty", "?")) == ("a, b", "")
    assert ("Host" in found.headers, "Via" in found.headers) == (True, False)
    assert (found.content_type, found.query, found.keep_alive, found.asks) == ("text/plain", (("b", "1"),), True, False)
    assert body == b"ab"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"/v1/keys/%6dine?x=%41", "/v1/keys/mine", "x=%41"),
        (b"//a/b", "//a/b", ""),
        (b"http://agent/v1/status?q=1", "/v1/status", "q=1"),
        (b"http://agent", "/", ""),
        (b"/a?b?c=/d", "/a", "b?c=/d"),
    ],
)
def test_targets(target: bytes, path: str, query: str) -> None:
    found, _ = one(head(first=b"GET %s HTTP/1.1" % target))
    assert (found.path, found.query_string) == (path, query)


@pytest.mark.parametrize(
    ("version", "connection", "alive"),
    [(b"1.1", b"", True), (b"1.1", b"close", False), (b"1.0", b"", False), (b"1.0", b"keep-alive", True)],
)
def test_how_long_a_connection_lives(version: bytes, connection: bytes, alive: bool) -> None:
    found, _ = one(head(b"Connection: " + connection, first=b"GET / HTTP/" + version))
    assert found.keep_alive is alive


@pytest.mark.parametrize(
    "data", [b"\0\0\0\x10{", b"\x16\x03\x01\x02", b"{}", b"get /", b"\r\n", b"GET / HTTP/1.1\nHost", b"A" * 21]
)
def test_what_is_no_request_is_refused_before_it_ends(data: bytes) -> None:
    with pytest.raises(FormatError, match="no request"):
        Reader().head(data)


@pytest.mark.parametrize("size", range(len(NEXT)))
def test_the_beginning_of_a_head_waits(size: int) -> None:
    assert Reader().head(NEXT[:size]) is None


def test_who_asks_first() -> None:
    lines = (b"Expect: 100-Continue", b"Content-Length: 0")
    assert one(head(*lines))[0].asks
    assert not one(head(*lines, first=b"POST / HTTP/1.0"))[0].asks


REFUSED = {
    "two lengths": head(b"Content-Length: 1", b"Content-Length: 2"),
    "one length twice": head(b"Content-Length: 1", b"Content-Length: 1"),
    "list of lengths": head(b"Content-Length: 1, 1"),
    "signed": head(b"Content-Length: +1"),
    "negative": head(b"Content-Length: -1"),
    "hex": head(b"Content-Length: 0x1"),
    "underscore": head(b"Content-Length: 1_0"),
    "empty length": head(b"Content-Length:"),
    "endless": head(b"Content-Length: " + b"9" * 19),
    "arabic digits": head("Content-Length: ٣".encode()),
    "length and chunks": head(b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    "chunks and length": head(b"Transfer-Encoding: chunked", b"Content-Length: 4"),
    "another coding": head(b"Transfer-Encoding: gzip, chunked"),
    "chunked not last": head(b"Transfer-Encoding: chunked, identity"),
    "twice chunked": head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "nearly chunked": head(b"Transfer-Encoding: xchunked"),
    "spaced coding": head(b"Transfer-Encoding : chunked"),
    "vertical tab": head(b"Transfer-Encoding: \x0bchunked"),
    "chunks in 1.0": head(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"),
    "folded": head(b"X: a\r\n b"),
    "folded by tab": head(b"X: a\r\n\tb"),
    "bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n" + NEXT,
    "one bare line feed": head(b"X: a\nContent-Length: 3"),
    "bare return": head(b"X: a\rContent-Length: 3"),
    "early end": b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n",
    "zero byte": head(b"X: a\0b"),
    "space in a name": head(b"Content-Length : 1"),
    "no name": head(b": x"),
    "no colon": head(b"X"),
    "two hosts": head(b"Host: b"),
    "two types": head(b"Content-Type: a/b", b"Content-Type: c/d"),
    "0.9": b"GET /\r\n\r\n",
    "9.9": head(first=b"GET / HTTP/9.9"),
    "2.0": head(first=b"PRI * HTTP/2.0"),
    "no method": head(first=b"FOO / HTTP/1.1"),
    "upgrade": head(b"Connection: upgrade", b"Upgrade: h2c", first=b"GET / HTTP/1.1"),
    "upgrade with a body": head(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 1"),
    "tunnel": head(first=b"CONNECT a:1 HTTP/1.1"),
    "control in the target": head(first=b"GET /a\x01 HTTP/1.1"),
    "target beyond ASCII": head(first=b"GET /\xc3\xa4 HTTP/1.1"),
    "no UTF-8 behind percent": head(first=b"GET /%ff HTTP/1.1"),
    "empty line before": b"\r\n" + NEXT,
    "no HTTP": b"no http\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "many headers": head(*(b"X-%d: a" % number for number in range(HEADERS))),
    "long head": head(b"X: " + b"a" * HEAD_BYTES),
    "long line": b"GET /" + b"a" * HEAD_BYTES,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="HTTP"):
        Reader().head(data)


LOOSE = ("folded", "folded by tab", "bare line feeds", "one bare line feed", "bare return", "early end", "zero byte")
ODD = (
    "vertical tab",
    "spaced coding",
    "space in a name",
    "two hosts",
    "empty length",
    "arabic digits",
    "signed",
    "upgrade",
)


@pytest.mark.parametrize("name", [*LOOSE, *ODD])
def test_a_lenient_parser_does_not_make_it_lenient(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(webread, "HttpRequestParser", Lenient)
    assert Reader().head(head())
    with pytest.raises(FormatError, match="HTTP"):
        Reader().head(REFUSED[name] + NEXT)


def test_as_much_as_is_allowed() -> None:
    lines = [b"X-%d: a" % number for number in range(HEADERS - 1)]
    lines[0] += b"a" * (HEAD_BYTES - len(head(*lines)))
    assert len(head(*lines)) == HEAD_BYTES
    assert one(head(*lines))[0].headers.get("x-0").startswith("aaa")


BROKEN = {
    "no digits": b"\r\nx",
    "negative": b"-1\r\nx",
    "0x": b"0x1\r\nx",
    "beyond 60 bits": b"1000000000000000\r\nx",
    "space behind": b"1 \r\nx\r\n",
    "space before": b" 1\r\nx\r\n",
    "no end of chunk": b"1\r\nxYY0\r\n\r\n",
    "line feed alone": b"1\nx\n0\n\n",
    "line feed at the end": b"1\r\nx\r\n0\r\n\n",
    "line feed in the extension": b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "return alone": b"1\rZx\r\n0\r\n\r\n",
    "long extension": b"1;" + b"a" * 90 + b"\r\nx\r\n0\r\n\r\n",
    "trailer": b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n",
    "endless size": b"0" * 16 + b"1\r\nx",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "bytewise"])
def test_chunks_are_taken_in_strict_form_only(body: bytes, bytewise: bool) -> None:
    data = CHUNKED + body + NEXT
    with pytest.raises(FormatError, match="HTTP"):
        list(read([data[at : at + 1] for at in range(len(data))] if bytewise else [data]))


@given(
    st.binary(max_size=300)
    | st.lists(st.sampled_from([*REFUSED.values(), *BROKEN.values(), CHUNKED, NEXT])).map(b"".join)
)
def test_any_bytes_are_requests_or_refused(data: bytes) -> None:
    reader, body = Reader(), Body(lambda _: None)
    with suppress(FormatError):
        while found := reader.head(data):
            head, size = found
            data, body = data[size:], Body(lambda _: None)
            assert head.length is None or head.length >= 0
            while not body.complete and data:
                size = reader.body(data, body)
                data = data[size:]
                if not size:
                    return
            if not body.complete:
                reader.body(b"", body)


class Early(Lenient):
    """A parser for which a message in chunks ends with the first of them."""

    def feed_data(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._protocol.on_url(b"/")
            self._protocol.on_header(b"Transfer-Encoding", b"chunked")
            self._protocol.on_headers_complete()
        else:
            self._protocol.on_message_complete()


def test_a_parser_that_sees_another_end_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webread, "HttpRequestParser", Lenient)
    with pytest.raises(FormatError, match="not clear"):
        Reader().head(head(b"Content-Length: 3"))
    monkeypatch.setattr(webread, "HttpRequestParser", Early)
    reader = Reader()
    assert reader.head(CHUNKED)
    with pytest.raises(FormatError, match="not clear"):
        reader.body(b"1\r\nx\r\n", Body(lambda _: None))


def test_extensions_of_chunks_mean_nothing() -> None:
    assert one(CHUNKED + b'00001;a="b c"\r\nx\r\n0;last\r\n\r\n')[1] == b"x"


def chunked(payload: bytes, sizes: random.Random) -> bytes:
    parts, at = [], 0
    while at < len(payload):
        size = sizes.randint(1, 40)
        part = payload[at : at + size]
        parts.append(b"%x\r\n%s\r\n" % (len(part), part))
        at += size
    return b"".join(parts) + b"0\r\n\r\n"


@given(
    bodies=st.lists(st.tuples(st.booleans(), st.text("\r\n0;1a\0", max_size=120)), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 32),
)
def test_requests_in_any_pieces_are_the_same_requests(bodies: list[tuple[bool, str]], seed: int) -> None:
    """Payloads full of what ends lines and messages, one request behind the other."""
    choice, stream, wanted = random.Random(seed), b"", []
    for in_chunks, text in bodies:
        payload = text.encode()
        wanted.append(payload)
        stream += (
            CHUNKED + chunked(payload, choice) if in_chunks else head(b"Content-Length: %d" % len(payload)) + payload
        )
    pieces, at = [], 0
    while at < len(stream):
        size = choice.choice((1, 2, 3, 10, 100, 10_000))
        pieces.append(stream[at : at + size])
        at += size
    assert [body for _, body in read(pieces)] == wanted


def test_a_head_that_comes_again_is_parsed_once() -> None:
    first, second, other, again = (
        found
        for found, _ in read([head(b"Content-Length: 1") + b"a"] * 2 + [NEXT] + [head(b"Content-Length: 1") + b"b"])
    )
    assert first is second
    assert other.path == "/next"
    assert again is not first


def test_chunks_again_and_again() -> None:
    assert [body for _, body in read([CHUNKED + b"1\r\na\r\n0\r\n\r\n", CHUNKED + b"1\r\nb\r\n0\r\n\r\n"])] == [
        b"a",
        b"b",
    ]


def test_small_chunks_leave_others_a_turn() -> None:
    reader, body, count = Reader(), Body(lambda _: None), 3 * webread.STEPS
    assert reader.head(CHUNKED)
    data = b"1\r\nx\r\n" * count
    assert 0 < reader.body(data, body) < len(data) / 2
