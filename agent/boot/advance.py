"""The first wrapping key, made in a child process while this one loads the rest and the network comes up.

An RSA-3072 key takes a tenth of a second, and seconds where the processor is emulated. cryptography holds the
interpreter's lock meanwhile, so a thread would not help. The key comes back through a pipe that no program inherits.
"""

from __future__ import annotations

import os
import select

from agent.core.ports import Deadline
from agent.unseal import WrappingKey

_MOST = 16 * 1024


class KeyInAdvance:
    """Starts at once; ``take`` waits for what is left to do. Call it while there is only one thread."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _make(writer)
        os.close(writer)

    def take(self, deadline: Deadline) -> WrappingKey:
        """The key, once; made here if the child failed. Raises DeadlineExceeded."""
        buffer = bytearray(_MOST)
        length = 0
        try:
            while select.select([self._reader], [], [], deadline.remaining())[0]:
                count = os.readv(self._reader, [memoryview(buffer)[length:]])
                length += count
                if not count:
                    break
        finally:
            os.close(self._reader)
        os.waitpid(self._pid, 0)
        try:
            return WrappingKey.from_der(bytes(buffer[:length])) if length else WrappingKey()
        finally:
            buffer[:] = bytes(_MOST)


def _make(writer: int) -> None:
    """The child: nothing of the parent's may run in it but this."""
    try:
        os.write(writer, WrappingKey().private_der())
    finally:
        os._exit(0)
