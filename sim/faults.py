"""Scripted faults: what a tired host or busy firmware does, in the order it was asked for.

Grammar: ``NAME[:COUNT[:VALUE]]``; COUNT ``*`` means until cleared. One fault acts on one request for a report; the
first one in line that is due wins. ``throttle`` and ``rate`` keep their own count beside the line.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from agent.core.errors import UsageError
from sim.kernel import Device, Made, failure

ALWAYS = -1
"""COUNT for ``*``."""

ERRNOS = {
    "ebusy": errno.EBUSY,
    "eintr": errno.EINTR,
    "einval": errno.EINVAL,
    "etimedout": errno.ETIMEDOUT,
    "eio": errno.EIO,
    "enotty": errno.ENOTTY,
}

HELP = """\
faults (--fault NAME[:COUNT[:VALUE]], may be repeated; COUNT * = until cleared):
  ebusy eintr einval etimedout eio enotty
                                     the next COUNT (1) requests for a report fail with this errno; /dev/sev-guest
                                     gives EIO for ebusy, with the VMM's error, and the firmware's refusal for einval
  generation-race                    another writer changes the entry right after COUNT (1) outblob reads
  short-read[:COUNT[:BYTES]]         outblob is cut to BYTES (100) for COUNT (1) reports
  no-certs                           auxblob is empty (COUNT *)
  debug                              the guest's policy allows debugging (COUNT *)
  throttle[:REPORTS[:SECONDS]]       after REPORTS (10) reports, one stall of SECONDS (10), again and again
  rate[:REPORTS[:SECONDS]]           REPORTS (1) in SECONDS (1), evenly, whenever they are asked for
  tcb[:COUNT[:STEPS]]                the host has updated its firmware by so many STEPS (1): another TCB (COUNT *)
  invalid-len                        /dev/sev-guest: no buffer is large enough for the certificates (COUNT *)
  qgs-error qgs-silent               the quote generation service gives an error COUNT (1) times, or hangs up"""

_COUNTS = {
    **dict.fromkeys((*ERRNOS, "generation-race", "short-read", "qgs-error", "qgs-silent"), 1),
    **dict.fromkeys(("no-certs", "debug", "invalid-len", "tcb"), ALWAYS),
}
_VALUES = {"short-read": 100.0, "throttle": 10.0, "rate": 1.0, "tcb": 1.0}
_ALLOWANCES = {"throttle": 10, "rate": 1}
_FAILURES = frozenset(ERRNOS)


@dataclass(slots=True)
class Fault:
    """``count`` requests left (ALWAYS: no end), or reports between stalls; ``value`` is bytes, seconds or steps."""

    name: str
    count: int
    value: float = 0.0

    def text(self) -> str:
        """In the grammar of --fault."""
        count = "*" if self.count == ALWAYS else str(self.count)
        return f"{self.name}:{count}" + (f":{self.value:g}" if self.name in _VALUES else "")


def parse(spec: str) -> Fault:
    """One fault from ``NAME[:COUNT[:VALUE]]``. Raises UsageError."""
    name, *rest = spec.split(":")
    known = {**_COUNTS, **_ALLOWANCES}
    if name not in known:
        raise UsageError(f"unknown fault {name!r}", hint=f"known: {', '.join(sorted(known))}")
    if len(rest) > (2 if name in _VALUES else 1):
        raise UsageError(f"fault {spec!r}: too many parts")
    try:
        count = known[name] if not rest else ALWAYS if rest[0] == "*" else int(rest[0])
        value = float(rest[1]) if len(rest) == 2 else _VALUES.get(name, 0.0)
    except ValueError as error:
        raise UsageError(f"fault {spec!r}: COUNT and VALUE are numbers") from error
    always = count == ALWAYS and rest[:1] in ([], ["*"])
    if (count < 1 and not always) or not 0 <= value <= 1e6 or (name in _ALLOWANCES and always):
        raise UsageError(f"fault {spec!r}: a number is out of range")
    return Fault(name, count, value)


class Faults:
    """The line of faults, shared by the tree (generation race) and the hardware (all others)."""

    def __init__(
        self,
        faults: tuple[Fault, ...] = (),
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = list(faults)
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._sleep = sleep or self._woken.wait
        self._clock = clock
        self._since_stall = 0
        self._next = 0.0

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._line.append(fault)

    def clear(self) -> None:
        """Forget all faults, and end a stall that is under way."""
        with self._lock:
            self._line.clear()
            self._since_stall, self._next = 0, 0.0
        self._woken.set()

    def pending(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(fault.text() for fault in self._line)

    def take(self, *names: str) -> Fault | None:
        """The first of these in line, counted down; None where none is due."""
        with self._lock:
            for fault in self._line:
                if fault.name in names:
                    return self._count_down(fault)
            return None

    def _count_down(self, fault: Fault) -> Fault:
        if fault.count != ALWAYS:
            fault.count -= 1
            if not fault.count:
                self._line.remove(fault)
        return Fault(fault.name, 1, fault.value)

    def throttle(self) -> None:
        """Stall when the allowance of reports is used up, then start a new one."""
        with self._lock:
            due = [fault for fault in self._line if fault.name == "throttle"]
            self._since_stall += 1
            stall = bool(due) and self._since_stall > due[0].count
            if stall:
                self._since_stall = 1
                self._woken.clear()
        if stall:
            self._sleep(due[0].value)
        self._ration()

    def _ration(self) -> None:
        """Wait until the next report of a ``rate`` is due."""
        with self._lock:
            due = [fault for fault in self._line if fault.name == "rate"]
            left = self._next - self._clock()
            if due:
                self._next = max(self._next, self._clock()) + due[0].value / due[0].count
                self._woken.clear()
        if due and left > 0:
            self._sleep(left)


class Hardware(Device, Protocol):
    """A simulated TEE below the driver: privilege levels and REPORT_DATA in, blobs out."""

    def report(self, report_data: bytes, privlevel: int, *, debug: bool, tcb_steps: int = 0) -> Made:
        """``tcb_steps``: by how much its firmware was updated since it was made."""
        ...


class FaultyProvider:
    """The guest driver over ``hardware``: its size rules, and the faults that were asked for."""

    def __init__(self, hardware: Hardware, faults: Faults) -> None:
        self._hardware, self._faults = hardware, faults
        self.name, self.has_auxblob = hardware.name, hardware.has_auxblob
        self.privlevel_floor = hardware.privlevel_floor

    def report(self, inblob: bytes, privlevel: int) -> Made:
        """Raises EINVAL (not 64 bytes, or below the floor: the firmware refuses), and the scripted errnos."""
        if len(inblob) != 64 or privlevel < (self.privlevel_floor or 0):
            raise failure(errno.EINVAL)
        fault = self._faults.take(*_FAILURES)
        if fault:
            raise failure(ERRNOS[fault.name])
        self._faults.throttle()
        debug, tcb = self._faults.take("debug") is not None, self._faults.take("tcb")
        made = self._hardware.report(inblob, privlevel, debug=debug, tcb_steps=int(tcb.value) if tcb else 0)
        cut = self._faults.take("short-read")
        outblob = made.outblob[: int(cut.value)] if cut else made.outblob
        return Made(outblob, b"" if self._faults.take("no-certs") else made.auxblob)
