"""Bounded reading of the variable-length structures in an event log: every length is held against what is there."""

from __future__ import annotations

import re
from uuid import UUID

from agent.core.errors import FormatError, Truncated


class Cursor:
    """A position in ``data``; integers are little endian. Every method raises Truncated when bytes are missing."""

    __slots__ = ("at", "data", "record")

    def __init__(self, data: bytes, record: str, at: int = 0) -> None:
        self.data, self.record, self.at = data, record, at

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> bytes:
        """The next ``size`` bytes."""
        if size > self.left:
            raise Truncated(
                f"{self.record} is truncated: {what} has {size} bytes at offset {self.at}, {self.left} are there",
                record=self.record,
                offset=self.at,
            )
        start, self.at = self.at, self.at + size
        return self.data[start : self.at]

    def number(self, size: int, what: str) -> int:
        """An unsigned integer of ``size`` bytes."""
        return int.from_bytes(self.take(size, what), "little")

    def guid(self, what: str) -> str:
        """An EFI GUID in its text form, lower case."""
        return str(UUID(bytes_le=self.take(16, what)))

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left, "rest")


def ucs2(data: bytes) -> str:
    """UEFI text (UCS-2, little endian) up to its NUL. Raises FormatError."""
    try:
        return data.decode("utf-16-le").split("\0", 1)[0]
    except UnicodeDecodeError as error:
        raise FormatError(f"not UCS-2 text at byte {error.start}", record="event data") from error


_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+\x00?", re.ASCII)


def text_of(data: bytes) -> str | None:
    """``data`` as people read it if it is ASCII, in one or two bytes a character, with or without a NUL; else None."""
    if data[1:2] == b"\0" and len(data) > 2 and len(data) % 2 == 0 and not any(data[1::2]):
        data = data[::2]
    return data.rstrip(b"\0").decode("ascii") if _TEXT.fullmatch(data) else None
