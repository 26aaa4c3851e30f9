"""Waiting for a program that runs beside us, but not longer than there is time."""

from __future__ import annotations

import os
import select

from agent.core.ports import Deadline
from agent.run import Child


def ended(child: Child, deadline: Deadline) -> int:
    """Its exit status. Raises DeadlineExceeded while it still runs."""
    fd = os.pidfd_open(child.pid)
    try:
        while not select.select([fd], [], [], deadline.remaining())[0]:
            pass
    finally:
        os.close(fd)
    return child.wait()
