"""Messages of the host's quote generation service (QGS): TDREPORT in, quote out. Bytes both ways; no socket here.

Source: Intel SGX DCAP, QuoteGeneration/quote_wrapper/qgs_msg_lib, message version 1.0, and the socket framing of
QuoteGeneration/quote_wrapper/tdx_attest. Little endian, but for the frame's length (4 bytes, big endian)::

    header: major u16 | minor u16 | type u32 | size u32 (header included) | error code u32
    request:  header | report size u32 | id list size u32   | report | id list
    response: header | selected id size u32 | quote size u32 | selected id | quote

Another minor version is compatible by the protocol's own rule. The host is not to be trusted: every size is checked
against the bytes that are there, and the quote is the verifier's to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from agent.core.wire import Record, uint

PORT = 4050
"""The vsock port on the host (CID 2) that Intel's service listens on by default."""
MAJOR, MINOR = 1, 0
GET_QUOTE_REQ, GET_QUOTE_RESP = 0, 1
PREFIX = 4
"""Bytes of the length before each message."""
MAX_QUOTE = 1 << 20
"""Bytes of a quote at the most."""
MAX_IDS = 4096
"""Bytes of an id list, and of a selected id, at the most."""

SUCCESS = 0
UNEXPECTED = 0x12001
OUT_OF_MEMORY = 0x12002
INVALID_PARAMETER = 0x12003
INVALID_VERSION = 0x12004
INVALID_TYPE = 0x12005
INVALID_SIZE = 0x12006
INVALID_CODE = 0x12007
_WORDS = {
    UNEXPECTED: "an unexpected error (the service's own log says more)",
    OUT_OF_MEMORY: "it is out of memory",
    INVALID_PARAMETER: "a parameter is wrong",
    INVALID_VERSION: "it does not know this version of the messages",
    INVALID_TYPE: "it does not know this type of message",
    INVALID_SIZE: "the message has the wrong size",
    INVALID_CODE: "the message carries an error code",
}
_LIBRARY = range(0x11000, 0x12000)
"""Codes of the quoting library behind the service (tee_att_error_t)."""


class Header(Record, size=16, title="QGS message header"):
    major = uint(0, 16)
    minor = uint(2, 16)
    kind = uint(4, 32)
    size = uint(8, 32)
    error_code = uint(12, 32)


class RequestHead(Header, size=24, title="QGS GET_QUOTE_REQ"):
    report_size = uint(16, 32)
    id_list_size = uint(20, 32)


class ResponseHead(Header, size=24, title="QGS GET_QUOTE_RESP"):
    selected_id_size = uint(16, 32)
    quote_size = uint(20, 32)


MAX_RESPONSE = ResponseHead.SIZE + MAX_IDS + MAX_QUOTE
"""Bytes of a response at the most, without its frame."""
_Head = TypeVar("_Head", bound=Header)


@dataclass(frozen=True, slots=True)
class Request:
    """``report`` is a TDREPORT; ``id_list`` the attestation keys that the caller takes (empty: the default)."""

    report: bytes
    id_list: bytes = b""

    def encode(self) -> bytes:
        head = RequestHead.build(
            major=MAJOR,
            minor=MINOR,
            kind=GET_QUOTE_REQ,
            size=RequestHead.SIZE + len(self.report) + len(self.id_list),
            report_size=len(self.report),
            id_list_size=len(self.id_list),
        )
        return head.data + self.report + self.id_list


@dataclass(frozen=True, slots=True)
class Response:
    """A quote, or an ``error_code`` that is not zero and nothing else."""

    quote: bytes = b""
    selected_id: bytes = b""
    error_code: int = SUCCESS

    def encode(self) -> bytes:
        head = ResponseHead.build(
            major=MAJOR,
            minor=MINOR,
            kind=GET_QUOTE_RESP,
            size=ResponseHead.SIZE + len(self.selected_id) + len(self.quote),
            error_code=self.error_code,
            selected_id_size=len(self.selected_id),
            quote_size=len(self.quote),
        )
        return head.data + self.selected_id + self.quote


def frame(message: bytes) -> bytes:
    """The message as it goes over the socket."""
    return len(message).to_bytes(PREFIX, "big") + message


def framed_size(prefix: bytes, most: int) -> int:
    """Bytes that follow a prefix of 4 bytes. Raises Truncated, Oversized (more than ``most``), FormatError."""
    if len(prefix) < PREFIX:
        raise Truncated(f"QGS frame is truncated: {len(prefix)} of {PREFIX} bytes", record="QGS frame", offset=0)
    size = int.from_bytes(prefix[:PREFIX], "big")
    if size > most:
        raise Oversized(f"QGS frame announces {size} bytes, {most} are allowed", record="QGS frame", offset=0)
    if size < Header.SIZE:
        raise FormatError(f"QGS frame announces {size} bytes, less than a header", record="QGS frame", offset=0)
    return size


def parse_request(data: bytes) -> Request:
    """A request without its frame. Raises FormatError and its kin."""
    head = _head(data, RequestHead, GET_QUOTE_REQ)
    if head.error_code:
        raise FormatError(f"{head.TITLE} carries error code 0x{head.error_code:x}", record=head.TITLE, offset=12)
    if not head.report_size:
        raise FormatError(f"{head.TITLE} without a report", record=head.TITLE, offset=16)
    report, ids = _two(data, head, head.report_size, head.id_list_size)
    return Request(report, ids)


def parse_response(data: bytes) -> Response:
    """A response without its frame: success or error by its ``error_code``. Raises FormatError and its kin."""
    head = _head(data, ResponseHead, GET_QUOTE_RESP)
    selected, quote = _two(data, head, head.selected_id_size, head.quote_size)
    if bool(quote) == bool(head.error_code):
        raise FormatError(
            f"{head.TITLE}: {len(quote)} bytes of quote with error code 0x{head.error_code:x}",
            record=head.TITLE,
            offset=12,
        )
    if len(selected) > MAX_IDS or len(quote) > MAX_QUOTE:
        raise Oversized(f"{head.TITLE}: quote of {len(quote)} bytes, id of {len(selected)}", record=head.TITLE)
    return Response(quote, selected, head.error_code)


def error_words(code: int) -> str:
    """An error code in words, its number kept."""
    words = _WORDS.get(code)
    if words is None:
        library = code in _LIBRARY
        words = "the quoting library behind it failed" if library else "an error that this version does not know"
    return f"{words} (QGS 0x{code:x})"


def _head(data: bytes, kind: type[_Head], number: int) -> _Head:
    """A head of the wanted type, whose size is that of the data."""
    common = Header.parse_prefix(data)
    if common.major != MAJOR:
        raise UnsupportedVersion(
            f"QGS message version {common.major}.{common.minor} is not supported", record=common.TITLE, offset=0
        )
    if common.kind != number:
        raise FormatError(f"QGS message of type {common.kind}, not {number}", record=common.TITLE, offset=4)
    if common.size != len(data):
        wrong = Truncated if common.size > len(data) else Oversized
        raise wrong(f"{kind.TITLE} says {common.size} bytes, {len(data)} are there", record=kind.TITLE, offset=8)
    return kind.parse_prefix(data)


def _two(data: bytes, head: Header, first: int, second: int) -> tuple[bytes, bytes]:
    """What follows the head: two parts that fill it exactly."""
    if head.SIZE + first + second != len(data):
        raise FormatError(
            f"{head.TITLE}: parts of {first} and {second} bytes in {len(data) - head.SIZE}",
            record=head.TITLE,
            offset=16,
        )
    return data[head.SIZE : head.SIZE + first], data[head.SIZE + first :]
