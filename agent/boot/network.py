"""The network of early boot, by the distribution's own helper, in a process of its own while we do slow work.

``initramfs/network`` calls ``configure_networking`` of initramfs-tools with what [boot] ip says. Afterwards the
interfaces are put back as they were found, for the running system configures them itself.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import time
from pathlib import Path

from agent.boot.child import ended
from agent.core.errors import DeadlineExceeded, TransportError
from agent.core.ports import Deadline
from agent.run import Child, spawn

HELPER = "/usr/lib/tee-agent/network"
RESULTS = Path("/run")
LOG = "/run/tee-agent/network.log"
UP = Path("/run/tee-agent/network.up")
"""Written by the helper: proc(5) /proc/uptime when it was done."""
_SIOCSIFADDR, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8916, 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 1
_IFREQ = 40  # bytes of struct ifreq


class Network:
    """``ip`` is [boot] ip. Nothing is started, and nothing waited for, when it is ``none``."""

    def __init__(self, ip: str) -> None:
        self._before = set(_results())
        self._child: Child | None = None if ip == "none" else spawn((HELPER, ip))

    def wait(self, deadline: Deadline) -> float:
        """Wait until an interface is configured; when it was, in seconds of the kernel's clock.

        Raises TransportError (``transport.network``).
        """
        if self._child is None:
            return time.monotonic()
        try:
            ended(self._child, deadline)
        except DeadlineExceeded as error:
            raise TransportError(
                f"the network did not come up: {error.message}", hint=f"see {LOG}", code="transport.network"
            ) from error
        if not self._ours():
            raise TransportError(
                "the network did not come up: no interface was configured",
                hint=f"see {LOG}, and [boot] ip",
                code="transport.network",
            )
        return _time(UP)

    def down(self) -> None:
        """Take down what was brought up; a helper that still runs is killed."""
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        for result in self._ours():
            _take_down(result.name.removeprefix("net-").removesuffix(".conf"))
            result.unlink(missing_ok=True)
        UP.unlink(missing_ok=True)

    def _ours(self) -> list[Path]:
        return [result for result in _results() if result not in self._before]


def _time(up: Path) -> float:
    try:
        return float(up.read_text())
    except (OSError, ValueError):
        return time.monotonic()


def _results() -> list[Path]:
    """What ipconfig leaves for each interface it configured."""
    return sorted(RESULTS.glob("net-*.conf"))


def _take_down(interface: str) -> None:
    """Address away, link down: netdevice(7). An interface that is gone is down."""
    name = interface.encode()[:15].ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            fcntl.ioctl(control, _SIOCSIFADDR, (name + struct.pack("=H", socket.AF_INET)).ljust(_IFREQ, b"\0"))
            request = fcntl.ioctl(control, _SIOCGIFFLAGS, name.ljust(_IFREQ, b"\0"))
            (flags,) = struct.unpack_from("=h", request, 16)
            fcntl.ioctl(control, _SIOCSIFFLAGS, (name + struct.pack("=h", flags & ~_IFF_UP)).ljust(_IFREQ, b"\0"))
        except OSError:
            return
