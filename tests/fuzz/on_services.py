"""Targets: what comes over sockets: requests to the service and to the daemon, answers between our processes."""

from __future__ import annotations

import asyncio
import io
from dataclasses import asdict, fields
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.admin import server
from agent.boot import report
from agent.core import ports
from agent.core.errors import FormatError
from agent.core.model import Evidence, Secret, Tee
from agent.daemon import body, cgroup, problem, remote, rpc, webread
from agent.daemon.web import Body, Head, Headers, Request
from agent.deadline import Deadline
from agent.transport import pins
from agent.transport.stdlib import Peer, StdlibTransport
from tas import request, web, wrap
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_vendors import DER_WORDS
from tests.fuzz.samples import AT, Samples, b64, compact
from tests.unit.tdx import world

_JSON_WORDS = (b'":"', b'":{', b'":[', b"null", b"true", b"-1", b"1e999", b"Infinity", b"NaN", b"\\ud800", b"\\u001b")


def get_secret(data: bytes) -> None:
    """A body of get_secret, as far as it is read before a store or a verifier is asked."""
    found = web.parse_json("application/json", data)
    tee, nonce = request.opening(found)
    parsed = request.parse(found, tee, nonce)
    if not parsed.evidence or len(parsed.evidence) > request.MAX_EVIDENCE or not parsed.wrapping_key:
        raise Broken("a request without bounds")


def wrapping_key(data: bytes) -> None:
    """The client's key, as it is once the evidence was good: the secret is wrapped for it."""
    wrapped = wrap.wrap(Secret(bytes(32)), wrap.load_key(data))
    if not all(wrapped.values()):
        raise Broken("something is missing")


def server_certificate(data: bytes) -> None:
    """What a TLS server shows: to be compared with pins, and to be shown to an admin."""
    pins.leaf_is_pinned(data, [])
    pins.check_times([data], AT)
    server.read([data, data])


class _Connection:
    """A connected socket whose peer said ``data`` and left."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def send(self, data: memoryview) -> int:
        return len(data)

    def recv_into(self, buffer: bytearray) -> int:
        return self._stream.readinto(buffer)

    def settimeout(self, seconds: float) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """Nothing is held."""


class _Wired(StdlibTransport):
    def __init__(self, data: bytes) -> None:
        super().__init__(Peer("http://127.0.0.1:1", (), lambda: AT))
        self._data = data

    def _dial(self, deadline: ports.Deadline) -> Any:
        return _Connection(self._data)


def http_answer(data: bytes) -> None:
    """What an attestation service's machine sends before anything of it is understood."""
    deadline = Deadline(3600, "fuzzing")
    found = _Wired(data).request("GET", "/version", headers={}, body=b"", max_bytes=4096, deadline=deadline)
    if len(found.body) > 4096:
        raise Broken("more was read than was allowed")


_LOOP = asyncio.new_event_loop()


def frame(data: bytes) -> None:
    """A frame as a process reads it from another one."""

    async def read() -> dict[str, Any]:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await rpc._read_frame(reader, rpc.MAX_REQUEST)

    try:
        found = _LOOP.run_until_complete(read())
    except asyncio.IncompleteReadError:
        return  # Service closes the connection
    if not isinstance(found, dict):
        raise Broken("a frame that is no object")


def failure(data: bytes) -> None:
    """Another process's error, and what we then say ourselves; or its evidence."""
    said = rpc._parse(data, "answer")
    error = problem.exception(said)
    problem.problem(error), problem.document(error), problem.retry_after(error)
    if not isinstance(remote.evidence_from(said), Evidence):
        raise Broken("no evidence")


def http_requests(data: bytes) -> None:
    """First byte: how many bytes come at a time. The requests of a connection are the same however they come."""
    step, stream = data[0] % 64 + 1 if data else 1, data[1:]
    if _requests(stream, step) != _requests(stream, len(stream) or 1):
        raise Broken("what comes in pieces is read otherwise")


def _requests(stream: bytes, step: int) -> tuple[list[tuple[str, str, str, str, bytes]], bool]:
    """Those that came whole, and whether all was taken until then."""
    reader, under_way, found = webread.Reader(), _UnderWay(), list[tuple[str, str, str, str, bytes]]()
    waiting = b""
    try:
        for at in range(0, len(stream), step):
            waiting += stream[at : at + step]
            while size := under_way.take(reader, waiting, found):
                waiting = waiting[size:]
    except FormatError:
        return found, False
    return found, True


class _UnderWay:
    """One request between its head and the end of its body, as agent.daemon.connection has it."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._body, self._data = Body(lambda _: None), b""

    def take(self, reader: webread.Reader, data: bytes, found: list[tuple[str, str, str, str, bytes]]) -> int:
        """Bytes taken: of a head, or of a body."""
        if self._head is None:
            if (begun := reader.head(data)) is None:
                return 0
            self._head, size = begun
            self._body, self._data = Body(lambda _: None), b""
        else:
            size = 0
        size += reader.body(data[size:], self._body)
        self._data += self._body.take()
        if self._body.complete:
            head, self._head = self._head, None
            found.append((head.method, head.path, head.query_string, head.content_type, self._data))
        return size


def local_request(data: bytes) -> None:
    """Query up to the first line feed, then the body of a request to the local socket."""
    query, _, content = data.partition(b"\n")
    head = Head("POST", "/v1/sign", query.decode("latin-1"), Headers({}), None, keep_alive=True, asks=False)
    found = Body(lambda _: None)
    found.feed(content)
    found.end()
    asked = Request(head, found)
    for value in body.query(asked, frozenset({"context", "audience"})).values():
        body.text(value, "context")
    reader = _LOOP.run_until_complete(body.document(asked, frozenset({"nonce"}), {"context": "", "claims": {}}))
    reader.text("context", 256)
    reader.hexadecimal("nonce", 16, 64)


def kept_files(data: bytes) -> None:
    """The last boot's report, and a cgroup text of the kernel."""
    text = data.decode(errors="surrogateescape")
    cgroup.unit_of(text)
    cgroup.container_of(text)
    found = report.read(cast(Any, SimpleNamespace(open=lambda _: io.BytesIO(data))))
    if found is not None and set(found) != {field.name for field in fields(report.Report)}:
        raise Broken("a report of another shape")


def _secret_seeds(s: Samples) -> list[bytes]:
    asked = {
        "tee-type": "amd-sev-snp",
        "nonce": "5a" * 32,
        "tee-evidence": b64(s.reports[0]),
        "policy-id": "policy-a",
        "report-data-binding": True,
        "wrapping-key": b64(bytes(270)),
        "endorsements": {"certificates": [b64(b"certificate")]},
    }
    return [compact(asked), compact({**asked, "component-evidence": {}, "nonce": f'"{"5a" * 32}"'})]


_PKCS1, _SPKI = PublicFormat.PKCS1, PublicFormat.SubjectPublicKeyInfo


def _public(s: Samples, encoding: Encoding, form: PublicFormat) -> bytes:
    return s.chips[0].hierarchy.ark.public_key().public_bytes(encoding, form)


def _tls() -> bytes:
    """A server's certificate, with names and addresses."""
    names = [x509.DNSName("tas.example"), x509.IPAddress(ip_address("127.0.0.1"))]
    extra: list[tuple[x509.ExtensionType, bool]] = [(x509.SubjectAlternativeName(names), False)]
    return world.Cert("server", "server", authority=True, serial=1, extra=extra).der()


def _frame(document: object) -> bytes:
    data = compact(document)
    return len(data).to_bytes(4, "big") + data


TARGETS = {
    "tas.request": Target(
        get_secret,
        _secret_seeds,
        (*_JSON_WORDS, b"intel-tdx", b"amd-sev-snp", b"component-evidence", b"endorsements", b"certificates"),
    ),
    "tas.wrap": Target(
        wrapping_key,
        lambda s: [
            _public(s, *form) for form in ((Encoding.DER, _PKCS1), (Encoding.DER, _SPKI), (Encoding.PEM, _SPKI))
        ],
        DER_WORDS,
        most=1024,
    ),
    "transport.pins": Target(
        server_certificate,
        lambda s: [*s.certificates(s.domain, s.chips[0]), _tls()],
        (*DER_WORDS, bytes.fromhex("0603551d11"), bytes.fromhex("8700"), b"\x82\x01a"),
        ("roots/*.pem",),
        4096,
    ),
    "transport.http": Target(
        http_answer,
        lambda s: [
            b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"version":"0.1"}',
            b"HTTP/1.1 503 X\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nA: b\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
        ],
        (
            b"HTTP/1.1 ",
            b"\r\n",
            b"\r\n\r\n",
            b"Transfer-Encoding: chunked",
            b"Content-Length: ",
            b"100 ",
            b"204 ",
            b"-1",
        ),
        most=4096,
    ),
    "daemon.frame": Target(
        frame, lambda s: [_frame({"method": "ping", "params": {}}), _frame({"result": {}})], _JSON_WORDS, most=2048
    ),
    "daemon.failure": Target(
        failure,
        lambda s: [
            compact({"code": "firmware.busy", "message": "m", "hint": "h", "errno": 16, "status": 2}),
            compact({"code": "server", "detail": "m", "retry_after": 2.5}),
            compact(remote.evidence_to(Evidence(Tee.SNP, b"blob", b"aux", "sev"))),
        ],
        (*_JSON_WORDS, b"firmware", b"server", b"retry_after", b"errno", b"status"),
        most=2048,
    ),
    "daemon.http": Target(
        http_requests,
        lambda s: [
            b"\x06POST /v1/sign?context=a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Type: a/b\r\n\r\nabcGET /",
            b"\x10POST /a%20b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n",
            b"\x3fGET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
        (
            b"\r\n",
            b"\r\n\r\n",
            b": ",
            b" HTTP/1.1",
            b"Content-Length: ",
            b"Transfer-Encoding: chunked",
            b"GET ",
            b"0\r\n",
            b"%2f",
        ),
        most=4096,
    ),
    "daemon.request": Target(
        local_request,
        lambda s: [b"context=a&audience=b\n" + compact({"nonce": "00" * 32, "claims": {"job": 1}})],
        (*_JSON_WORDS, b"context=", b"audience=", b"%ff", b"nonce", b"claims"),
        most=4096,
    ),
    "boot.report": Target(
        kept_files,
        lambda s: [
            compact(asdict(report.Report(volumes=[report.Outcome("data", "/dev/vdb")]))),
            b"0::/system.slice/a.service\n1:name=systemd:/user.slice/b.scope\n",
        ],
        (*_JSON_WORDS, b"volumes", b"timeline", b".service", b"1:name=systemd:/"),
        most=2048,
    ),
}
