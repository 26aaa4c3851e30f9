"""Early boot's account, said once to the journal of the running system: outcome, each volume, and what took how long.

Standard error of a unit: "<N>" in front of a line is its priority (sd-daemon(3)).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.boot import report
from agent.core.canonical import printable

NOTICE, WARNING, ERROR = 5, 4, 3
UNREADABLE = 65


def lines(document: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Priority and text of each line."""
    stopped = document.get("outcome") == "stopped"
    yield (ERROR if stopped else NOTICE), f"early boot: {document.get('outcome')}{_reason(document)}"
    for volume in document.get("volumes", ()):
        how = f"opened by {volume['how']}" if volume.get("how") else "closed"
        yield (WARNING if volume.get("code") else NOTICE), f"volume {volume.get('name')}: {how}{_reason(volume)}"
    for notice in document.get("notices", ()):
        yield WARNING, str(notice)
    times = sorted(document.get("timeline", {}).items(), key=lambda item: float(item[1]))
    if times:
        yield NOTICE, "seconds since the kernel started: " + ", ".join(f"{name} {at}" for name, at in times)


def _reason(part: Mapping[str, Any]) -> str:
    hint = f" ({part['hint']})" if part.get("hint") else ""
    return f": [{part['code']}] {part.get('message', '')}{hint}" if part.get("code") else ""


def main(path: Path = report.PATH) -> int:
    """Writes the account in ``path`` to standard error. Returns the exit status: 65 when there is none to be read."""
    document = report.read(path)
    if document is None:
        sys.stderr.write(f"<{WARNING}>{path} can't be read\n")
        return UNREADABLE
    for priority, text in lines(document):
        sys.stderr.write(f"<{priority}>{printable(' '.join(text.split()))}\n")
    return 0
