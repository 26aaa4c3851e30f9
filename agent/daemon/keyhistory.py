"""Whether the folder of persistent keys is as new as the audit log says: both are on the host's disk.

Each change of the folder has a serial, which the log is told after the change is on the disk; and the folder's index
says where the log stood before it. So neither can be put back to an older state without the other. Both together
can: nothing in the machine knows (docs/keys.md). The audit head at the service, and in statements, is what would.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.core import audit
from agent.core.errors import TeeAgentError
from agent.core.statement import AuditHead
from agent.daemon.auditdisk import CURRENT, READ, full_files

CHANGED, OPENED = "keys.changed", "keys.opened"
"""Kinds of records that have a serial."""
_MARK = b'"kind":"keys.'
_TRIES = 64
"""Lines that look like such a record, and are none, in one file."""


@dataclass(frozen=True, slots=True)
class History:
    """The audit log in ``folder``; ``anchor`` gives its end."""

    folder: Path
    anchor: Callable[[], AuditHead | None]

    def doubts(self, serial: int, head: AuditHead | None) -> list[str]:
        """What speaks against a folder of this serial, whose index says that the log stood at ``head``. Blocks.

        Nothing where the log can't be read.
        """
        found: list[str] = []
        try:
            newest, now = newest_serial(self.folder), self.anchor()
        except OSError:
            return found
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
            if os.fstat(fd).st_size:
                with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as view:
                    serial = _last(view)
                if serial is not None:
                    return serial
        finally:
            os.close(fd)
    return None


def _last(view: mmap.mmap) -> int | None:
    end = len(view)
    for _ in range(_TRIES):
        place = view.rfind(_MARK, 0, end)
        if place < 0:
            return None
        begin = view.rfind(b"\n", 0, place) + 1
        serial = _serial(view[begin : min(len(view), begin + audit.MAX_LINE + 1)].partition(b"\n")[0])
        if serial is not None:
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
