"""Character devices served from a process: the kernel's CUSE protocol on /dev/cuse, as far as a TEE's device needs it.

Source: Linux include/uapi/linux/fuse.h (protocol 7.31), fs/fuse/cuse.c, fs/fuse/ioctl.c. Everything is little
endian, as the machines are that have a TEE. One request at a time: while a device makes its answer, others wait.

An ioctl is answered in rounds. The kernel first says only the command and its argument, an address in the caller's
memory. The server names the spans that it wants to read and to write, and the kernel asks again with their content.
So a device is a function that is run again in each round; ``Memory`` ends the rounds in which something is missing.
"""

from __future__ import annotations

import errno
import os
import select
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from agent.core.errors import PlatformError

CHANNEL = Path("/dev/cuse")
DEVICES = Path("/dev")
MAJOR, MINOR = 7, 31
UNRESTRICTED_IOCTL = 1 << 0
IOCTL_RETRY = 1 << 2
REQUEST_MAX = 1 << 17
"""Bytes of one read: the kernel refuses a buffer that could not hold its largest request."""

_REQUEST = struct.Struct("<IIQQIIIHH")
_REPLY = struct.Struct("<IiQ")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIIIII40x")
_OPEN_OUT = struct.Struct("<QII")
_IOCTL_IN = struct.Struct("<QIIQII")
_IOCTL_OUT = struct.Struct("<iIII")
_SPAN = struct.Struct("<QQ")
_IO_MAX = 4096
_GONE = frozenset({errno.ENODEV, errno.ECONNABORTED})


class Op(IntEnum):
    """Requests that a device answers; ENOSYS to all others."""

    OPEN = 14
    RELEASE = 18
    INTERRUPT = 36
    IOCTL = 39
    INIT = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """``size`` bytes at ``address`` in the caller's memory."""

    address: int
    size: int


class Again(Exception):
    """This round lacks something: the kernel is to ask again with these spans."""

    def __init__(self, reads: Sequence[Span], writes: Sequence[Span]) -> None:
        super().__init__("ask again")
        self.reads, self.writes = tuple(reads), tuple(writes)


class Memory:
    """The caller's memory in one round: ``data`` is what its spans to read hold, ``room`` the bytes of those to write.

    A device reads first, claims what it will write, and only then does what must happen once.
    """

    def __init__(self, data: bytes, room: int) -> None:
        self._data, self._room = data, room
        self._read: list[Span] = []
        self._used = 0

    def read(self, address: int, size: int) -> bytes:
        """Raises Again until this span has come."""
        self._read.append(Span(address, size))
        found = self._data[self._used : self._used + size]
        self._used += size
        if len(found) < size:
            raise Again(self._read, ())
        return found

    def claim(self, *spans: Span) -> None:
        """``spans`` will be written, in this order, from the first byte on. Raises Again until there is room."""
        if self._room != sum(span.size for span in spans):
            raise Again(self._read, spans)


@dataclass(frozen=True, slots=True)
class Done:
    """An ioctl's end: its return value (negative: errno), and what goes into the claimed spans, or the first of it."""

    result: int
    written: bytes = b""


class Device(Protocol):
    """What stands behind a node. ``name`` is its name below /dev."""

    @property
    def name(self) -> str: ...

    def ioctl(self, command: int, argument: int, memory: Memory) -> Done:
        """Raises Again, or OSError as a driver that writes nothing back."""
        ...


def answer(device: Device, request: bytes) -> bytes | None:
    """The reply to one request of the kernel; None where none is due. Raises PlatformError for a foreign protocol."""
    _, code, unique, *_ = _REQUEST.unpack_from(request)
    body = request[_REQUEST.size :]
    match code:
        case Op.INIT:
            return _reply(unique, _init(device.name, body))
        case Op.OPEN:
            return _reply(unique, _OPEN_OUT.pack(0, 0, 0))
        case Op.RELEASE:
            return _reply(unique, b"")
        case Op.INTERRUPT:
            return None  # as a driver in its firmware call: it ends when it ends
        case Op.IOCTL:
            return _reply(unique, _ioctl(device, body))
        case _:
            return _reply(unique, b"", -errno.ENOSYS)


def _reply(unique: int, body: bytes, error: int = 0) -> bytes:
    return _REPLY.pack(_REPLY.size + len(body), error, unique) + body


def _init(name: str, body: bytes) -> bytes:
    major, minor, _, flags = _INIT_IN.unpack_from(body)
    if (major, minor) < (MAJOR, MINOR) or major != MAJOR or not flags & UNRESTRICTED_IOCTL:
        raise PlatformError(f"the kernel's CUSE protocol is {major}.{minor} with flags {flags:#x}, 7.31 is needed")
    # Device number 0: the kernel chooses one.
    return _INIT_OUT.pack(MAJOR, MINOR, 0, UNRESTRICTED_IOCTL, _IO_MAX, _IO_MAX, 0, 0) + b"DEVNAME=%s\0" % name.encode()


def _ioctl(device: Device, body: bytes) -> bytes:
    _, _, command, argument, size, room = _IOCTL_IN.unpack_from(body)
    memory = Memory(body[_IOCTL_IN.size : _IOCTL_IN.size + size], room)
    try:
        done = device.ioctl(command, argument, memory)
    except Again as again:
        spans = (*again.reads, *again.writes)
        head = _IOCTL_OUT.pack(0, IOCTL_RETRY, len(again.reads), len(again.writes))
        return head + b"".join(_SPAN.pack(span.address, span.size) for span in spans)
    except OSError as error:
        return _IOCTL_OUT.pack(-(error.errno or errno.EIO), 0, 0, 0)
    return _IOCTL_OUT.pack(done.result, 0, 0, 0) + done.written


def channel() -> int:
    """A descriptor of /dev/cuse: one for each device. Raises PlatformError."""
    try:
        return os.open(CHANNEL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(f"{CHANNEL}: {error.strerror}", hint="modprobe cuse") from error


class Node:
    """One device below /dev, from ``open`` to ``close``. ``connect`` opens the kernel's channel, ``folder`` is /dev."""

    def __init__(self, device: Device, connect: Callable[[], int] = channel, folder: Path = DEVICES) -> None:
        self._device, self._connect = device, connect
        self.path = folder / device.name
        self._fd = -1
        self._woken, self._wake = os.pipe()

    def open(self) -> None:
        """Raises PlatformError."""
        self._fd = self._connect()

    def serve(self, up: Callable[[], None]) -> None:
        """Answer until closed, or until the kernel takes the device away; ``up`` is called once the node is there."""
        try:
            while self._fd in select.select([self._fd, self._woken], [], [])[0]:
                self._once(up)
        except OSError as error:
            if error.errno not in _GONE:
                raise
        finally:
            os.close(self._fd)  # takes the node away

    def close(self) -> None:
        """End ``serve`` after the request under way."""
        os.write(self._wake, b"\0")

    def _once(self, up: Callable[[], None]) -> None:
        request = os.read(self._fd, REQUEST_MAX)
        reply = answer(self._device, request)
        if reply is not None:
            os.write(self._fd, reply)
        # The kernel makes the node while it takes the first answer, or takes the channel away where it could not.
        if _REQUEST.unpack_from(request)[1] == Op.INIT and self.path.exists():
            up()
