"""Fixed-layout binary records: one line per row of a specification's table, shared by parser, writer and tests.

A record is a view over validated bytes. Bytes that no field covers are reserved and must be zero; fields that
overlap are refused when the class is made. So a record covers each of its bytes exactly once, by construction.
All integers are little endian, as in AMD's and Intel's tables.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self, overload

from agent.core.errors import FormatError, Oversized, Truncated


class _Field:
    __slots__ = ("end", "name", "offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset, self.size, self.end, self.name = offset, size, offset + size, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def encode(self, value: Any) -> bytes:
        raise TypeError(f"{self.name}: no form for {type(value).__name__}")


class Uint(_Field):
    """Little-endian unsigned integer."""

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: Record, owner: type) -> int: ...
    def __get__(self, record: Record | None, owner: type) -> Self | int:
        if record is None:
            return self
        return int.from_bytes(record.data[self.offset : self.end], "little")

    def encode(self, value: Any) -> bytes:
        return int(value).to_bytes(self.size, "little")


class Raw(_Field):
    """Bytes in file order."""

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: Record, owner: type) -> bytes: ...
    def __get__(self, record: Record | None, owner: type) -> Self | bytes:
        if record is None:
            return self
        return record.data[self.offset : self.end]

    def encode(self, value: Any) -> bytes:
        data = bytes(value)
        if len(data) != self.size:
            raise ValueError(f"{self.name}: {self.size} bytes are required, not {len(data)}")
        return data


def uint(offset: int, bits: int) -> Uint:
    """An unsigned integer of ``bits`` bits at ``offset`` bytes."""
    if bits % 8:
        raise ValueError("whole bytes only")
    return Uint(offset, bits // 8)


def raw(offset: int, size: int) -> Raw:
    """``size`` bytes at ``offset``."""
    return Raw(offset, size)


class Record:
    """Base of all records: ``class Header(Record, size=48, title="quote header")``.

    ``Header.parse(data)`` demands exactly ``size`` bytes (``parse_prefix`` at least) and zero reserved bytes;
    ``Header.build(**fields)`` makes one, absent fields being zero; ``record.data`` is the exact bytes.
    Raises Truncated, Oversized, FormatError.
    """

    SIZE: ClassVar[int] = 0
    TITLE: ClassVar[str] = "record"
    FIELDS: ClassVar[tuple[_Field, ...]] = ()
    RESERVED: ClassVar[tuple[tuple[int, int], ...]] = ()

    __slots__ = ("data",)
    data: bytes

    def __init_subclass__(cls, *, size: int = 0, title: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.SIZE = size or cls.SIZE
        cls.TITLE = title or cls.TITLE
        own = [field for field in vars(cls).values() if isinstance(field, _Field)]
        replaced = {field.name for field in own}
        inherited = [field for field in cls.FIELDS if field.name not in replaced]
        cls.FIELDS = tuple(sorted([*inherited, *own], key=lambda field: field.offset))
        cls.RESERVED = _gaps(cls)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @classmethod
    def parse(cls, data: bytes) -> Self:
        if len(data) > cls.SIZE:
            raise Oversized(
                f"unexpected data after the {cls.SIZE}-byte {cls.TITLE}: {len(data)} bytes in all",
                record=cls.TITLE,
                offset=cls.SIZE,
                expected=f"{cls.SIZE} bytes",
                got=f"{len(data)} bytes",
            )
        return cls.parse_prefix(data)

    @classmethod
    def parse_prefix(cls, data: bytes) -> Self:
        if len(data) < cls.SIZE:
            raise Truncated(
                f"{cls.TITLE} is truncated: {cls.SIZE} bytes are required, {len(data)} are there",
                record=cls.TITLE,
                offset=len(data),
                expected=f"{cls.SIZE} bytes",
                got=f"{len(data)} bytes",
            )
        record = cls(bytes(data[: cls.SIZE]))
        for start, end in cls.RESERVED:
            if record.data.count(0, start, end) != end - start:
                raise FormatError(
                    f"{cls.TITLE}: reserved bytes 0x{start:x}-0x{end - 1:x} are not zero",
                    record=cls.TITLE,
                    offset=start,
                    expected="zero",
                    got=record.data[start:end].hex(),
                    code="format.reserved",
                )
        return record

    @classmethod
    def build(cls, **values: Any) -> Self:
        """The record with these fields; absent ones are zero. Raises TypeError for a field it does not have."""
        data = bytearray(cls.SIZE)
        for field in cls.FIELDS:
            if field.name in values:
                data[field.offset : field.end] = field.encode(values.pop(field.name))
        if values:
            raise TypeError(f"{cls.TITLE} has no field {sorted(values)}")
        return cls(bytes(data))

    def values(self) -> dict[str, Any]:
        """Every field by name, ints and bytes: ``build(**record.values())`` gives the same bytes."""
        return {field.name: getattr(self, field.name) for field in self.FIELDS}

    def replace(self, **values: Any) -> Self:
        """A copy with some fields changed."""
        return type(self).build(**{**self.values(), **values})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and type(self) is type(other) and self.data == other.data

    def __hash__(self) -> int:
        return hash((type(self), self.data))


def _gaps(cls: type[Record]) -> tuple[tuple[int, int], ...]:
    gaps, at = [], 0
    for field in cls.FIELDS:
        if field.offset < at or field.end > cls.SIZE:
            raise TypeError(f"{cls.__name__}.{field.name} overlaps or leaves the record")
        if field.offset > at:
            gaps.append((at, field.offset))
        at = field.end
    if at < cls.SIZE:
        gaps.append((at, cls.SIZE))
    return tuple(gaps)
