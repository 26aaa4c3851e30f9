"""Whether the folder of persistent keys is as new as the audit log says: both are on the host's disk.

Each change of the folder has a serial, which the log is told after the change is on the disk; and the folder's index
says where the log stood before it. So neither can be put back to an older state without the other. Both together
can: nothing in the machine knows (docs/keys.md). The audit head at the service, and in statements, is what would.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.core import audit
from agent.core.errors import TeeAgentError
from agent.core.statement import AuditHead
from agent.daemon.auditdisk import CURRENT, full_files
from agent.daemon.files import READ

CHANGED, OPENED = "keys.changed", "keys.opened"
"""Kinds of records that have a serial."""
_MARK = b'"kind":"keys.'
_TRIES = 64
"""Lines that look like such a record in one file, and are none: then it tells none."""
_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class History:
    """The audit log in ``folder``; ``anchor`` gives its end."""

    folder: Path
    anchor: Callable[[], AuditHead | None]

    def doubts(self, serial: int, head: AuditHead | None) -> list[str]:
        """What speaks against a folder of this serial, whose index says that the log stood at ``head``. Blocks.

        What can't be read speaks against nothing.
        """
        found: list[str] = []
        newest, now = None, self.anchor()
        with suppress(OSError):
            newest = newest_serial(self.folder)
        if newest is not None and newest > serial:
            found.append(
                f"the keys were put back: the audit log knows change {newest}, the folder of keys {serial};"
                " what was destroyed or rotated since then is in use again"
            )
        if head and now and now.seq < head.seq:
            found.append(f"the audit log was put back: it ends at record {now.seq}, and the keys know {head.seq}")
        return found


def newest_serial(folder: Path) -> int | None:
    """Of the last change or opening that the log tells; None where it tells none. Raises OSError."""
    for path in (folder / CURRENT, *reversed(full_files(folder))):
        fd = os.open(path, READ)
        try:
            serial = _last(fd)
        finally:
            os.close(fd)
        if serial is not None:
            return serial
    return None


def _last(fd: int) -> int | None:
    """The same of one file, from its end. It is read, not mapped: the log may cut off what it could not write whole."""
    tries, end = _TRIES, os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - _WINDOW)
        # A line belongs to the window that it begins in, and may go on behind it; the byte before says if it begins.
        first = max(0, begin - 1)
        data = os.pread(fd, end - first + audit.MAX_LINE, first)
        place = len(data)
        while (place := data.rfind(_MARK, 0, place)) >= 0:
            start = data.rfind(b"\n", 0, place) + 1
            if first + start >= end or (start == 0 and first > 0):
                continue
            serial = _serial(data[start:].partition(b"\n")[0])
            tries -= 1
            if serial is not None or not tries:
                return serial
        end = begin
    return None


def _serial(line: bytes) -> int | None:
    try:
        record = audit.read(line)
    except TeeAgentError:
        return None
    serial = record.fields.get("serial")
    return serial if record.kind in (CHANGED, OPENED) and isinstance(serial, int) else None
