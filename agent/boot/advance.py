"""The first wrapping key, made in child processes while this one loads the rest and the network comes up.

An RSA-3072 key takes a tenth of a second, and seconds where the processor is emulated: how many is luck, for primes are
searched for. So each processor has a child that searches, and the first key there is taken. cryptography holds the
interpreter's lock meanwhile, so threads would not help. The key comes back through a pipe that no program inherits.
"""

from __future__ import annotations

import os
import select
import signal

from agent.core.ports import Deadline
from agent.run import heed_children
from agent.unseal import WrappingKey

MAKERS = 4
"""At the most: of two the sooner takes two thirds of the time, of four half."""
_MOST = 16 * 1024
_LESS = 10
"""What the others are nicer than the first: they take what nobody wants."""


class KeyInAdvance:
    """Starts at once; ``take`` waits for what is left to do. Call it while there is only one thread."""

    def __init__(self) -> None:
        heed_children()  # else a child's number could be another's by the time it is ended
        self._makers: dict[int, int] = {}
        for number in range(min(MAKERS, len(os.sched_getaffinity(0)))):
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                _make(writer, _LESS if number else 0)
            os.close(writer)
            self._makers[reader] = pid

    def take(self, deadline: Deadline) -> WrappingKey:
        """The key, once; made here if the children failed. Raises DeadlineExceeded."""
        buffer = bytearray(_MOST)
        length = 0
        try:
            while self._makers and not length:
                ready, _, _ = select.select(list(self._makers), [], [], deadline.remaining())
                if ready:
                    length = _read(ready[0], buffer, deadline)
                    self._end(ready[0])
            return WrappingKey.from_der(bytes(buffer[:length])) if length else WrappingKey()
        finally:
            buffer[:] = bytes(_MOST)
            for reader in list(self._makers):
                self._end(reader)

    def _end(self, reader: int) -> None:
        """The others' search is over, too: what they would find is of no use."""
        pid = self._makers.pop(reader)
        os.kill(pid, signal.SIGKILL)
        os.close(reader)
        os.waitpid(pid, 0)


def _read(reader: int, buffer: bytearray, deadline: Deadline) -> int:
    """Bytes of the key that one child made; 0 where it failed."""
    length = 0
    while select.select([reader], [], [], deadline.remaining())[0]:
        count = os.readv(reader, [memoryview(buffer)[length:]])
        length += count
        if not count:
            break
    return length


def _make(writer: int, nicer: int) -> None:
    """The child: nothing of the parent's may run in it but this."""
    try:
        os.nice(nicer)
        os.write(writer, WrappingKey().private_der())
    finally:
        os._exit(0)
