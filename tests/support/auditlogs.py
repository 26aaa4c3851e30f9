"""Audit logs in tests: a log over a folder, and a writer process that dies at a step of its own.

``python -m tests.support.auditlogs`` forks a writer for each line ``[FOLDER, STEP, EVENTS, KEEP]`` on stdin: it writes
EVENTS events, says each one's number on stdout when it is done, keeps KEEP full files, and kills itself (SIGKILL) before
its call number STEP of STEPS, a write in its middle; on stderr it says which of them that was.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.auditlog import Verified, last, verify_folder
from agent.core.auditconfig import AuditConfig
from agent.daemon.audit import Audit
from agent.daemon.peers import Caller
from tests.support.waiting import awaited

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
CALLER = Caller(77, 1000, 1000, (), "app.service", "")
WHO = {"uid": 1000, "gid": 1000, "unit": "app.service", "container": ""}
STEPS = ("open", "write", "fsync", "rename", "unlink", "ftruncate")
"""Of the operating system: whatever changes a file or a name."""
SMALL = 4096
"""Bytes of a file before rotation: less than a configuration may ask for."""


def opened(folder: Path, max_bytes: int = SMALL, keep: int = 100, **more: Any) -> Audit:
    log = Audit(AuditConfig(folder, max_bytes, keep), BOOT, **more)
    log.open("1.0")
    return log


def told(folder: Path, head: bytes | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Kinds and fields of a log that must verify."""
    verify(folder, head)
    lines = last(folder, 100_000)
    return [(line.record.kind, dict(line.record.fields)) for line in lines if line.record]


def denials(folder: Path, count: int, key: str = "") -> list[dict[str, Any]]:
    """The refusals (of what is wished with this key), once there are so many: nobody waits for their writing."""

    def look() -> list[dict[str, Any]]:
        found = [fields for kind, fields in told(folder) if kind == "denied"]
        return [one for one in found if not key or one.get("key") == key]

    return awaited(look, lambda found: len(found) >= count)


def verify(folder: Path, head: bytes | None = None) -> Verified:
    return verify_folder(folder, head)


class Killer:
    """Counts the process's steps; kills it before the one that is wanted, a write in its middle."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self._made = wanted, 0
        self._say = os.write

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self._made += 1
            if self._made == self._wanted:
                self._say(2, f"{name}\n".encode())
                if name == "write" and len(args[1]) > 1:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return step


def main(folder: Path, wanted: int, events: int, keep: int) -> None:
    out = os.dup(1)
    say, killer = os.write, Killer(wanted)
    for name in STEPS:
        setattr(os, name, killer.wrap(name, getattr(os, name)))
    log = opened(folder, keep=keep)
    for number in range(events):
        log.event("key.created", severity="notice", caller=WHO, key=f"n/{number}", note="x" * 190)
        say(out, f"{number} {log.head().hex()}\n".encode())
    log.signed(CALLER, "ab" * 32)
    log.close()
    say(out, f"end {log.head().hex()}\n".encode())


def nursery() -> None:
    """Reads lines of arguments, runs main with each in a forked process, and answers with a line of JSON: its end."""
    for line in sys.stdin:
        out, err = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(out[1], 1)
            os.dup2(err[1], 2)
            words = json.loads(line)
            main(Path(words[0]), *words[1:])
            os._exit(0)
        _, status = os.waitpid(child, 0)
        told_of = []
        for reader, writer in (out, err):
            os.close(writer)
            with os.fdopen(reader) as stream:  # less than a pipe holds, so the child never waited
                told_of.append(stream.read())
        sys.stdout.write(json.dumps([os.waitstatus_to_exitcode(status), *told_of]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    nursery()
