"""Just enough DER to hold an encoding to its letter: tag, definite minimal length, nothing left over (ITU-T X.690).

Used where a general parser is more lenient than we can be: a signed object's frame is not covered by its signature,
and names are compared before any signature is known to hold. Raises FormatError or a subclass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from agent.core.errors import FormatError, Oversized, Truncated

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OID = 0x06
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
VERSION_3 = (0xA0, bytes.fromhex("020102"))
ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
"""AlgorithmIdentifier's content for ECDSA with SHA-256, without parameters (RFC 5758 section 3.2)."""
_RSA_ARC = bytes.fromhex("2a864886f70d0101")
_DIGITS = re.compile(r"[0-9]{14}", re.ASCII)
_COMMON_NAME = bytes.fromhex("550403")


def element(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at ``at``."""
    if len(data) < at + 2:
        raise Truncated("DER element is truncated", record="DER", offset=at)
    tag, size, start = data[at], data[at + 1], at + 2
    if size >= 0x80:
        octets = size - 0x80
        size = int.from_bytes(data[start : start + octets], "big")
        start += octets
        if not 1 <= octets <= 3 or size < 0x80 or size < 1 << 8 * (octets - 1):
            raise FormatError("DER length is not minimal", record="DER", offset=at)
    if start + size > len(data):
        raise Truncated(f"DER element has {size} bytes, {len(data) - start} are there", record="DER", offset=at)
    return tag, start, start + size


def children(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of consecutive elements that fill ``data`` exactly."""
    found, at, last = [], 0, len(data) - 1
    while at <= last:
        tag, start, end = data[at], at + 2, at + 2 + data[at + 1] if at < last else -1
        if end < 0 or data[at + 1] >= 0x80 or end > last + 1:  # a long form or an error: not the common case
            tag, start, end = element(data, at)
        found.append((tag, data[start:end]))
        at = end
    return found


def only(data: bytes, tag: int) -> bytes:
    """The content of the one element of ``tag`` that ``data`` is."""
    got, start, end = element(data)
    if got != tag:
        raise FormatError(f"DER tag is 0x{got:02x}, 0x{tag:02x} is required", record="DER", offset=0)
    if end != len(data):
        raise Oversized("unexpected data after a DER element", record="DER", offset=end)
    return data[start:end]


def integer(content: bytes) -> int:
    """A non-negative INTEGER's content."""
    if not content or content[0] & 0x80 or (len(content) > 1 and content[0] == 0 and not content[1] & 0x80):
        raise FormatError("DER integer is negative or not minimal", record="DER")
    return int.from_bytes(content, "big")


def moment(tag: int, content: bytes) -> datetime:
    """A UTCTime or GeneralizedTime with seconds, in UTC (RFC 5280 section 4.1.2.5: two digits turn at 1950)."""
    text = content[:-1].decode("latin-1")
    if tag == UTC_TIME:
        text = ("19" if text[:1] >= "5" else "20") + text
    if tag not in {UTC_TIME, GENERALIZED_TIME} or content[-1:] != b"Z" or not _DIGITS.fullmatch(text):
        raise FormatError("not a time in UTC with seconds", record="DER")
    try:
        return datetime.fromisoformat(f"{text[:8]}T{text[8:]}Z")
    except ValueError as error:
        raise FormatError(f"not a time: {error}", record="DER") from error


def extensions(content: bytes) -> dict[bytes, tuple[bool, bytes]]:
    """OID content to (critical, value) of the SEQUENCE OF Extension in ``content``; none may stand there twice."""
    found: dict[bytes, tuple[bool, bytes]] = {}
    for tag, entry in children(only(content, SEQUENCE)):
        parts = children(entry)
        oid, critical = parts[0][1] if parts else b"", parts[1:2] == [(BOOLEAN, b"\xff")]
        shape = [OID, BOOLEAN, OCTET_STRING] if critical else [OID, OCTET_STRING]
        if tag != SEQUENCE or [kind for kind, _ in parts] != shape or oid in found:
            raise FormatError("extensions are malformed, or one stands there twice", record="DER")
        found[oid] = (critical, parts[-1][1])
    return found


@dataclass(frozen=True, slots=True)
class Signed:
    """``data`` is what ``signature`` (DER) covers; ``parts`` are the elements in it."""

    data: bytes
    parts: list[tuple[int, bytes]]
    signature: bytes


def signed(data: bytes) -> Signed:
    """A certificate or CRL whose frame is the one that we accept.

    That is SEQUENCE { SEQUENCE (signed), ECDSA with SHA-256, BIT STRING without unused bits }, nothing around it.
    """
    content = only(data, SEQUENCE)
    frame = children(content)
    if [tag for tag, _ in frame] != [SEQUENCE, SEQUENCE, BIT_STRING] or frame[1][1] != ECDSA_SHA256:
        raise FormatError("not signed with ECDSA and SHA-256", record="DER")
    if frame[2][1][:1] != b"\0":
        raise FormatError("signature has unused bits", record="DER")
    return Signed(content[: element(content)[2]], children(frame[0][1]), frame[2][1][1:])


def is_rsa_signed(data: bytes) -> bool:
    """Whether this is a signed object under an RSA algorithm, inside and outside: another vendor's, not ours to judge.

    One changed bit does not make an object of ours look like one: the algorithm stands there twice.
    """
    try:
        covered, algorithm, _ = children(only(data, SEQUENCE))
        return algorithm in children(covered[1]) and children(algorithm[1])[0][1].startswith(_RSA_ARC)
    except (FormatError, ValueError, IndexError):
        return False


def dotted(oid: bytes) -> str:
    """An OBJECT IDENTIFIER's content as people write it."""
    numbers, value = [], 0
    for octet in oid:
        value = value << 7 | octet & 0x7F
        if octet < 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2) if numbers else 0
    return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]])) if numbers else "?"


def common_name(name: bytes) -> str:
    """The common name in a Name's content, "?" where there is none or it is not printable."""
    try:
        for _, rdn in children(name):
            for _, attribute in children(rdn):
                kind, value = children(attribute)
                if kind[1] == _COMMON_NAME:
                    text = value[1].decode("utf-8", "replace")
                    return text if text.isprintable() else "?"
    except (FormatError, ValueError):
        pass
    return "?"
