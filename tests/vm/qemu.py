"""One virtual machine from power-on to power-off: emulated, bounded in time, watched on two serial lines.

The first line is the console: a log in a file, and a person's keyboard. The second is the guest judge's own channel:
JSON lines that nothing else writes to, so no verdict is ever read out of a log.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vm.command import NICE, HarnessError
from tests.vm.emulator import Emulator

MEMORY = "1024"
CPUS = "2"
REPORT_BYTES_MAX = 8 << 20
END_KEY = b"\x1d"
_CUT = rb"(?:\[ *[0-9]+\.[0-9]{6}\] [^\n]*\n)*"
"""Lines of the kernel."""
HALTED = b"reboot: System halted"
"""The kernel's last word where a machine halts without being switched off: QEMU would run for ever."""


class EmulatorCrashed(HarnessError):
    """The emulator itself died: nothing is known about the guest."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image as a virtio disk. It is never written to: what the guest writes is dropped at the end, unless ``kept``."""

    image: Path
    serial: str = ""
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is plugged together. ``product`` is readable in the guest as /sys/class/dmi/id/product_serial."""

    kernel: Path
    initrd: Path
    cmdline: str
    disks: tuple[Disk, ...]
    product: str = ""
    isolated: bool = False
    """The network gives an address and leads nowhere."""


@dataclass(slots=True)
class Ended:
    """How a run ended. ``why``: off (by itself), halted, stopped (by its keyboard), timeout. ``reports`` are the judge's JSON objects in order."""

    why: str
    seconds: float
    console: bytes
    reports: list[dict[str, Any]] = field(default_factory=list)


class Machine:
    """A running QEMU. ``say`` types on the console; ``console`` holds all it has shown."""

    def __init__(self, console: socket.socket, channel: socket.socket) -> None:
        self._keyboard, self._channel = console, channel
        self._started = time.monotonic()
        self._raw = bytearray()
        self._echo: int | None = None
        self._stopped = False
        self.console = bytearray()

    def say(self, text: str) -> None:
        """Type ``text`` on the console."""
        self._keyboard.sendall(text.encode())

    def run(
        self, deadline: float, watch: Callable[[Machine], None], *, echo: int | None = None, keys: int | None = None
    ) -> Ended:
        """Until the machine is off, halted, or ``deadline`` (monotonic) has passed. ``watch`` sees each new output.

        ``echo``: a descriptor that gets what the console shows. ``keys``: one to type from; Ctrl-] ends the machine.
        """
        self._echo = echo
        with selectors.DefaultSelector() as selector:
            lines = {self._keyboard.fileno(): self._shown, self._channel.fileno(): self._reported}
            for fd, take in lines.items():
                selector.register(fd, selectors.EVENT_READ, take)
            if keys is not None:
                selector.register(keys, selectors.EVENT_READ, self._typed)
            why = "timeout"
            while time.monotonic() < deadline and why == "timeout":
                for key, _ in selector.select(timeout=0.5):
                    data = _read(key.fd)
                    if not data:
                        selector.unregister(key.fd)
                        lines.pop(key.fd, None)
                    key.data(data)
                watch(self)
                why = self._ended(lines)
        return Ended(why, time.monotonic() - self._started, bytes(self.console), self._reports())

    def _ended(self, lines: Mapping[int, object]) -> str:
        if self._stopped:
            return "stopped"
        if HALTED in self.console:
            return "halted"
        return "timeout" if lines else "off"

    def _typed(self, data: bytes) -> None:
        self._stopped = END_KEY in data
        self._keyboard.sendall(data)

    def _shown(self, data: bytes) -> None:
        self.console += data
        if self._echo is not None:
            os.write(self._echo, data)

    def _reported(self, data: bytes) -> None:
        if len(self._raw) + len(data) > REPORT_BYTES_MAX:
            raise HarnessError("the guest's report is without end")
        self._raw += data

    def _reports(self) -> list[dict[str, Any]]:
        found = []
        for line in bytes(self._raw).splitlines():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise HarnessError(f"the guest's report is not JSON: {line[:200]!r}") from error
        return found


def seen(console: bytes | bytearray, text: str, start: int = 0) -> int:
    """Where ``text`` ends on the console, -1 if it is not there.

    The emulated line now and then sends a byte twice, and the kernel's own lines come in the middle of a program's.
    """
    pattern = _CUT.join(re.escape(bytes((byte,))) + b"{1,2}" for byte in text.encode())
    found = re.compile(pattern).search(console, start)
    return found.end() if found else -1


@contextmanager
def started(emulator: Emulator, hardware: Hardware, folder: Path) -> Iterator[Machine]:
    """A machine switched on; its console goes to ``folder``/console.log too. It is off when the block ends."""
    console, their_console = socket.socketpair()
    channel, their_channel = socket.socketpair()
    with console, channel, (folder / "qemu.log").open("wb") as log:
        with their_console, their_channel:
            fds = (their_console.fileno(), their_channel.fileno())
            process = subprocess.Popen(
                [*NICE, *emulator.command, *_arguments(hardware, *fds)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **emulator.env},
                pass_fds=fds,
            )
        try:
            yield Machine(console, channel)
        finally:
            crashed = not _end(process) and process.returncode < 0
    complaint = (folder / "qemu.log").read_text(errors="replace")
    if crashed:
        raise EmulatorCrashed(f"QEMU died of signal {-process.returncode}:\n{complaint}")
    if process.returncode > 0:
        raise HarnessError(f"QEMU ended with {process.returncode}:\n{complaint}")


def _read(fd: int) -> bytes:
    """What is there; nothing at the end, which a killed peer announces as a reset."""
    try:
        return os.read(fd, 65536)
    except ConnectionResetError:
        return b""


def _end(process: subprocess.Popen[bytes]) -> bool:
    """True when it had to be killed. QEMU closes its lines just before it ends by itself."""
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=20)
        return True
    return False


def _arguments(hardware: Hardware, console: int, channel: int) -> list[str]:
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]
    words += ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", CPUS, "-m", MEMORY]
    words += ["-kernel", str(hardware.kernel), "-initrd", str(hardware.initrd), "-append", hardware.cmdline]
    words += ["-chardev", f"socket,id=console,fd={console},logfile=console.log"]
    words += ["-serial", "chardev:console"]
    words += ["-chardev", f"socket,id=channel,fd={channel}", "-serial", "chardev:channel"]
    words += ["-smbios", f"type=1,serial={hardware.product.replace(',', ',,')}"]
    words += ["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]
    isolated = ",restrict=on" if hardware.isolated else ""
    words += ["-netdev", f"user,id=net{isolated}", "-device", "virtio-net-pci,netdev=net,romfile="]
    for number, disk in enumerate(hardware.disks):
        snapshot = "off" if disk.kept else "on"
        words += ["-drive", f"file={disk.image},format=raw,if=none,id=disk{number},snapshot={snapshot},cache=unsafe"]
        words += ["-device", f"virtio-blk-pci,drive=disk{number},serial={disk.serial}"]
    return words
