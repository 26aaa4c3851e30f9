"""What configfs-tsm shows and what a guest driver registers: names, modes, sizes, errnos. Source as sim.tree."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

INBLOB_MAX = 64
"""TSM_INBLOB_MAX, bytes."""
PRIVLEVEL_MAX = 3
"""TSM_PRIVLEVEL_MAX: AMD's VMPL 0 to 3."""
TEXT_SIZE = 4096
"""st_size of a text attribute in configfs; binary attributes show 0."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the hardware gives for one request."""

    outblob: bytes
    auxblob: bytes = b""


class Device(Protocol):
    """What a TEE is to its driver. ``privlevel_floor`` None: the driver shows no privilege level (TDX)."""

    @property
    def name(self) -> str: ...
    @property
    def privlevel_floor(self) -> int | None: ...
    @property
    def has_auxblob(self) -> bool: ...


class Provider(Device, Protocol):
    """What a guest driver registers."""

    def report(self, inblob: bytes, privlevel: int) -> Made:
        """A report over ``inblob``. Raises OSError as the driver would."""
        ...


class Attribute(StrEnum):
    """The files of an entry."""

    INBLOB = "inblob"
    OUTBLOB = "outblob"
    AUXBLOB = "auxblob"
    GENERATION = "generation"
    PROVIDER = "provider"
    PRIVLEVEL = "privlevel"
    PRIVLEVEL_FLOOR = "privlevel_floor"

    @property
    def writable(self) -> bool:
        return self in {Attribute.INBLOB, Attribute.PRIVLEVEL}

    @property
    def binary(self) -> bool:
        return self in {Attribute.INBLOB, Attribute.OUTBLOB, Attribute.AUXBLOB}

    @property
    def mode(self) -> int:
        """S_IFREG and permissions: configfs gives write-only attributes 0200, read-only ones 0444."""
        return stat.S_IFREG | (0o200 if self.writable else 0o444)


DIRECTORY_MODE = stat.S_IFDIR | 0o755


@dataclass(frozen=True, slots=True)
class Node:
    """Mode and st_size of one path. The owner is always root."""

    mode: int
    size: int = 0


def failure(number: int) -> OSError:
    """An OSError with the kernel's errno."""
    return OSError(number, os.strerror(number))
