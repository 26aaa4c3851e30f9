"""/etc/crypttab (crypttab(5)): which names the system gives to which devices. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. ``source`` is a path, ``UUID=...`` or the like; ``options`` as they stand there."""

    name: str
    source: str
    options: tuple[str, ...] = ()


def parse(text: str) -> tuple[Entry, ...]:
    """All entries; comments and lines without a source are none."""
    return tuple(_entries(text))


def _entries(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#"):
            yield Entry(words[0], words[1], tuple(words[3].split(",")) if len(words) > 3 else ())
