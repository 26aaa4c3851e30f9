"""The end of an audit file after a crash: which lines are whole, what is torn, where the chain goes on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.audit import MAX_LINE, Record, digest, read
from agent.core.errors import TeeAgentError

WINDOW = 262_144
"""Bytes at a file's end that are looked at: more than one write of ours can tear."""


@dataclass(frozen=True, slots=True)
class Tail:
    """``torn`` bytes at the end are no record; before them stands ``last``, whose line has the digest ``head``.

    ``last`` is None where the window has no record at all. ``damage`` says where two records of the window don't
    follow one another, "" where all do. ``records`` are the window's.
    """

    torn: bytes
    last: Record | None
    head: bytes
    damage: str
    records: tuple[Record, ...]


def tail(window: bytes, *, whole: bool) -> Tail:
    """``window`` is a file's end, or with ``whole`` all of it; else what precedes its first newline is dropped.

    Whole lines are never torn as long as a record stands behind them: damage further up stays for verify to name.
    """
    start = 0 if whole else window.find(b"\n") + 1
    found: list[tuple[Record, bytes]] = []
    damage, end, position = "", start, start
    while (stop := window.find(b"\n", position)) >= 0:
        line, position = window[position:stop], stop + 1
        record = _read(line)
        if record is None:
            continue
        if found and (found[-1][1] != record.prev or found[-1][0].seq + 1 != record.seq or end != stop - len(line)):
            damage = damage or f"record {record.seq} does not follow record {found[-1][0].seq}"
        found.append((record, digest(line)))
        end = position
    last, head = found[-1] if found else (None, b"")
    return Tail(window[end:], last, head, damage, tuple(record for record, _ in found))


def _read(line: bytes) -> Record | None:
    if len(line) > MAX_LINE:
        return None
    try:
        return read(line)
    except TeeAgentError:
        return None
