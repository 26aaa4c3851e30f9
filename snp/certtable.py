"""The host's certificate table (configfs-tsm ``auxblob``): entries by GUID, each with one certificate or CRL.

Source: AMD 56421, SEV-ES Guest-Hypervisor Communication Block, section 4.1.8.1 (Extended Guest Request). A row is a
GUID (16 bytes in RFC 4122 order), a 32-bit offset from the start of the table and a 32-bit length, little endian;
a row of zeros ends the table. The host wrote it: nothing in it is trusted before snp.verify has judged it.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping

from agent.core.errors import FormatError, Oversized, Truncated
from agent.core.model import Endorsements
from agent.core.wire import Record, raw, uint

MAX_SIZE = 64 * 1024
"""Bytes of a table; Linux gives 16 KiB at the most (SEV_FW_BLOB_MAX_SIZE)."""
MAX_ENTRIES = 32
_TITLE = "certificate table"

GUIDS: Mapping[str, str] = {
    "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd",
    "VLEK": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "CRL": "92f81bc3-5811-4d3d-97ff-d19f88dc67ea",
}
"""What AMD names. An ASVK travels under ASK's GUID. Other GUIDs are the host's own and are passed over."""

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END \1-----(?:\r?\n)*")


class Row(Record, size=24, title="certificate table row"):
    """One row of the table."""

    guid = raw(0, 16)
    offset = uint(16, 32)
    length = uint(20, 32)


def parse(data: bytes) -> dict[str, bytes]:
    """Contents by GUID (lower-case text) in file order; empty input gives none.

    Raises Oversized, Truncated, FormatError: entries must lie behind the rows, inside the data, apart from each other,
    each GUID once; every byte that no entry covers is zero (hosts pad to pages).
    """
    if len(data) > MAX_SIZE:
        raise Oversized(f"{_TITLE} has {len(data)} bytes, {MAX_SIZE} are allowed", record=_TITLE)
    rows = _rows(data)
    at = (len(rows) + 1) * Row.SIZE
    entries: dict[str, bytes] = {}
    for row in sorted(rows, key=lambda row: row.offset):
        name = str(uuid.UUID(bytes=row.guid))
        end = row.offset + row.length
        if end > len(data):
            raise Truncated(f"{_TITLE}: {name} ends at byte {end}, there are {len(data)}", record=_TITLE, offset=end)
        if row.offset < at or not row.length or name in entries:
            raise FormatError(f"{_TITLE}: {name} is empty, overlaps or is there twice", record=_TITLE, offset=at)
        _require_zero(data, at, row.offset)
        entries[name] = data[row.offset : end]
        at = end
    _require_zero(data, at, len(data))
    return {name: entries[name] for name in (str(uuid.UUID(bytes=row.guid)) for row in rows)}


def used(data: bytes) -> bytes:
    """What a table takes up of a larger buffer: rows and contents, without the padding behind them. No table: b"".

    Nothing else is judged; what does not fit the buffer is left for ``parse`` to refuse.
    """
    end, at = 0, 0
    while any(row := data[at : at + Row.SIZE]) and len(row) == Row.SIZE:
        at += Row.SIZE
        end = max(end, Row(row).offset + Row(row).length)
    return data[: max(end, at + Row.SIZE)] if at else b""


def build(entries: Mapping[str, bytes]) -> bytes:
    """A table with these contents, by GUID or by a name in GUIDS; packed in order behind the rows, not padded."""
    at = (len(entries) + 1) * Row.SIZE
    rows = []
    for name, content in entries.items():
        guid = uuid.UUID(GUIDS.get(name, name)).bytes
        rows.append(Row.build(guid=guid, offset=at, length=len(content)).data)
        at += len(content)
    return b"".join([*rows, bytes(Row.SIZE), *entries.values()])


def certificates(auxblob: bytes) -> Endorsements:
    """The certificates and the CRL in a table, as DER. Entries may be DER or PEM (one or several objects).

    Raises what ``parse`` raises, and FormatError for an entry that is neither DER nor PEM.
    """
    entries = parse(auxblob)
    found = {name: _der_objects(name, entries[guid]) for name, guid in GUIDS.items() if guid in entries}
    crls = found.pop("CRL", ())
    return Endorsements(tuple(dict.fromkeys(der for ders in found.values() for der in ders)), crls)


def _rows(data: bytes) -> list[Row]:
    rows: list[Row] = []
    while data:
        row = Row.parse_prefix(data[len(rows) * Row.SIZE : (len(rows) + 1) * Row.SIZE])
        if not any(row.guid):
            _require_zero(row.data, 0, Row.SIZE)
            break
        rows.append(row)
        if len(rows) > MAX_ENTRIES:
            raise Oversized(f"{_TITLE} has more than {MAX_ENTRIES} entries", record=_TITLE)
    return rows


def _require_zero(data: bytes, start: int, end: int) -> None:
    if any(data[start:end]):
        raise FormatError(f"{_TITLE}: bytes 0x{start:x}-0x{end - 1:x} belong to no entry", record=_TITLE, offset=start)


def _der_objects(name: str, content: bytes) -> tuple[bytes, ...]:
    if content[:1] == b"\x30":
        return (content,)
    found = []
    at = 0
    content = content.rstrip(b"\0")
    while at < len(content):
        match = _PEM.match(content, at)
        if not match:
            raise FormatError(f"{_TITLE}: {name} is neither DER nor PEM", record=_TITLE, offset=at)
        found.append(_base64(name, match[2]))
        at = match.end()
    return tuple(found)


def _base64(name: str, text: bytes) -> bytes:
    packed = b"".join(text.split())
    try:
        data = base64.b64decode(packed, validate=True)
    except binascii.Error:
        data = b""
    # Unused bits before the padding would be a second spelling of the same certificate.
    if not data or base64.b64encode(data) != packed:
        raise FormatError(f"{_TITLE}: {name} has PEM that is not canonical base64", record=_TITLE)
    return data
