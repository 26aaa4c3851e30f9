"""The kernel's side of CUSE, as far as an ioctl goes: fs/fuse/ioctl.c over this process's own memory.

What stands behind a node can so be used without the kernel's module: ``Kernel(device).ioctl`` is ``fcntl.ioctl``.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Any

from sim.cuse import Device, Op, answer

ROUNDS_MAX = 8
_RETRY = 1 << 2


def request(code: int, body: bytes = b"", unique: int = 2) -> bytes:
    """struct fuse_in_header and what follows it, as the kernel of a root process sends it."""
    return struct.pack("<IIQQIIIHH", 40 + len(body), code, unique, 0, 0, 0, 1, 0, 0) + body


def body_of(reply: bytes, unique: int = 2) -> bytes:
    """What follows struct fuse_out_header. Raises OSError with its error."""
    length, error, answered = struct.unpack_from("<IiQ", reply)
    assert (length, answered) == (len(reply), unique)
    if error:
        raise OSError(-error, os.strerror(-error))
    return reply[16:]


class Kernel:
    """Carries ioctls to ``transport``: a device's own answer(), or a channel to a server. Counts the rounds."""

    def __init__(self, transport: Callable[[bytes], bytes | None]) -> None:
        self._transport = transport
        self._unique = 0
        self.rounds = 0

    def call(self, code: int, body: bytes = b"") -> bytes:
        """One request, its answer's body. Raises OSError."""
        self._unique += 2
        reply = self._transport(request(code, body, self._unique))
        assert reply is not None
        return body_of(reply, self._unique)

    def ioctl(self, _fd: int, command: int, argument: Any) -> int:
        """``argument`` is a ctypes structure or array, or a bytearray. Raises OSError."""
        held = (ctypes.c_char * len(argument)).from_buffer(argument) if isinstance(argument, bytearray) else argument
        address = ctypes.addressof(held)
        reads: list[tuple[int, int]] = []
        writes: list[tuple[int, int]] = []
        self.rounds = 0
        while self.rounds < ROUNDS_MAX:
            self.rounds += 1
            data = b"".join(ctypes.string_at(*span) for span in reads)
            room = sum(size for _, size in writes)
            out = self.call(Op.IOCTL, struct.pack("<QIIQII", 0, 1 << 1, command, address, len(data), room) + data)
            result, flags, read_count, write_count = struct.unpack_from("<iIII", out)
            if not flags & _RETRY:
                _scatter(out[16:], writes)
                if result < 0:
                    raise OSError(-result, os.strerror(-result))
                return int(result)
            spans = list(struct.iter_unpack("<QQ", out[16:]))
            assert len(spans) == read_count + write_count
            reads, writes = spans[:read_count], spans[read_count:]
        raise AssertionError("the device asks without end")


def kernel(device: Device) -> Kernel:
    """One that needs no file."""
    return Kernel(lambda message: answer(device, message))


def _scatter(data: bytes, spans: list[tuple[int, int]]) -> None:
    """iov_iter: the first bytes to the first span; there may be fewer bytes than room."""
    assert len(data) <= sum(size for _, size in spans)
    for address, size in spans:
        part, data = data[:size], data[size:]
        ctypes.memmove(address, part, len(part))
