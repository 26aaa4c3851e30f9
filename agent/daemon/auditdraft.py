"""What the audit log is told, made fit for a record: callers as records have them, foreign text cut and escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from agent.core.canonical import MAX_INTEGER, printable
from agent.daemon.peers import Caller

MAX_TEXT = 200
"""UTF-8 bytes of a text; a record may have longer ones."""

Who = tuple[int, int, str, str] | None
"""uid, gid, unit, container; None for everybody who found no room."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A record without its place in the chain; ``time`` is aware."""

    time: datetime
    kind: str
    severity: str
    caller: Mapping[str, Any] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def identity(caller: Caller) -> dict[str, Any]:
    """The caller as a record has it."""
    return document(who(caller)) or {}


@lru_cache(maxsize=1024)
def who(caller: Caller) -> Who:
    """What callers are told apart by."""
    return caller.uid, caller.gid, text(caller.unit), text(caller.container)


def document(caller: Who) -> dict[str, Any] | None:
    """The same as a record has it."""
    return dict(zip(("uid", "gid", "unit", "container"), caller, strict=True)) if caller else None


def text(value: str) -> str:
    """Nothing that could repaint a terminal, and not much of it."""
    return printable(value[:MAX_TEXT]).encode("utf-8", "replace")[:MAX_TEXT].decode("utf-8", "ignore")


def draft(
    time: datetime, kind: str, severity: str, caller: Mapping[str, Any] | None, fields: Mapping[str, Any]
) -> Draft:
    """A draft of anything: values that are neither text nor small whole numbers become text."""
    found = None
    if caller is not None:
        texts = {name: text(str(caller.get(name, ""))) for name in ("unit", "container")}
        found = {"uid": caller["uid"], "gid": caller["gid"], **texts}
    return Draft(time, kind, severity, found, {name: _plain(value) for name, value in fields.items()})


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return value if isinstance(value, int) and abs(value) <= MAX_INTEGER else text(str(value))
