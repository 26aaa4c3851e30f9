"""An event log held against evidence or registers: numbered checks, and the log as JSON and for people.

1. event log: well-formed (failing is a FormatError)
2. to 5. RTMR0 to RTMR3: the replay gives the value
6. no event's data differ from a digest that must cover them

Only 2 to 5 tie the log to the hardware; 6 keeps a true digest from being shown with false words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tdx.abi
from agent.core.errors import FormatError, UsageError, VerificationError
from agent.core.model import Check, Tee, Verified
from agent.core.policy import renumbered
from tdx.ccel import MAX_AREA
from tdx.event import REGISTERS, Event
from tdx.eventdata import Coverage, coverage
from tdx.eventlog import Log, Register, compare, parse, replay
from tdx.eventwords import words

MAX_LOG = MAX_AREA
"""Bytes of a log at the most."""
CODE = "verify.eventlog"
NOT_COVERED = "event log: the types of all events, and the data of {} of them: no digest covers them"


@dataclass(frozen=True, slots=True)
class Judged:
    """A log, and the verdict on each register."""

    log: Log
    registers: tuple[Register, ...]
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def problem(self, before: Sequence[Check] = ()) -> VerificationError:
        """The error for the first check that failed; ``before`` are checks made before this log's."""
        made = [*before, *renumbered(list(self.checks), len(before) + 1)]
        at = next(index for index, check in enumerate(made) if not check.ok)
        return VerificationError(f"{made[at].name}: {made[at].detail}", checks=made[: at + 1], code=CODE)


def judge(data: bytes, actual: Mapping[int, bytes]) -> Judged:
    """``data`` (CCEL area or JSON log) against registers (0 to 3, 48 bytes each). Raises FormatError."""
    log = parse(data)
    registers = compare(log.events, actual)
    covered = [(event, coverage(event)) for event in log.events]
    extended = sum(event.extended for event in log.events)
    checks = [Check(1, "event log: well-formed", True, f"{log.form}, {extended} events")]
    checks += [_register_check(register) for register in registers]
    checks.append(_data_check(covered))
    uncovered = sum(state is Coverage.NONE for _, state in covered)
    return Judged(log, registers, tuple(renumbered(checks, 1)), (NOT_COVERED.format(uncovered),))


def judge_evidence(verified: Verified, data: bytes) -> Verified:
    """Evidence with the log's checks behind its own. Raises UsageError (SNP), FormatError, VerificationError."""
    if verified.tee is not Tee.TDX:
        raise UsageError("--eventlog: an SNP report has no registers that a log could explain", hint="TDX quotes have")
    actual = {index: bytes.fromhex(verified.fields[f"rtmr{index}"]) for index in REGISTERS}
    judged = judge(data, actual)
    if not judged.ok:
        raise judged.problem(verified.checks)
    checks = (*verified.checks, *renumbered(list(judged.checks), len(verified.checks) + 1))
    return replace(verified, checks=checks, not_checked=(*verified.not_checked, *judged.not_checked))


def quote_registers(blob: bytes) -> dict[int, bytes]:
    """RTMR0 to RTMR3 as a quote says; its signature is not looked at. Raises FormatError."""
    try:
        body = tdx.abi.parse(blob).body
    except FormatError as error:
        error.hint = error.hint or "a raw TDX quote is expected, as tee-agent evidence collect writes it"
        raise
    return dict(enumerate((body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3)))


def _register_check(register: Register) -> Check:
    text = register.status if register.ok else register.detail
    return Check(0, f"event log: RTMR{register.index}", register.ok, f"{text} ({register.events} events)")


def _data_check(covered: Sequence[tuple[Event, Coverage]]) -> Check:
    false = [event for event, state in covered if state is Coverage.DIFFERS]
    name = "event log: data agree with their digests"
    if not false:
        return Check(0, name, True)
    return Check(0, name, False, f"event {false[0].number} ({false[0].type_name}) has other data than were measured")


def register_name(event: Event) -> str:
    """``rtmr0`` to ``rtmr3``; "" for MRTD's index."""
    return "" if event.register is None else f"rtmr{event.register}"


def log_json(log: Log) -> dict[str, Any]:
    """The log and what it replays to."""
    return {
        "format": log.form,
        "events": [event_json(event) for event in log.events],
        "rtmrs": {f"rtmr{index}": value.hex() for index, value in replay(log.events).items()},
    }


def event_json(event: Event) -> dict[str, Any]:
    """One event; ``measured`` says whether ``words`` are covered by the digest."""
    state = coverage(event)
    return {
        "number": event.number,
        "register": register_name(event) or None,
        "type": event.type_name,
        "type_number": event.kind,
        "digest": event.digest.hex() if event.extended else None,
        "data_bytes": len(event.data),
        "coverage": state.value,
        "measured": state.measured,
        "words": words(event),
    }


def registers_json(registers: Sequence[Register]) -> list[dict[str, Any]]:
    """The verdict on each register."""
    return [
        {
            "register": f"rtmr{register.index}",
            "status": register.status,
            "replayed": register.replayed.hex(),
            "actual": register.actual.hex(),
            "events": register.events,
            "detail": register.detail,
        }
        for register in registers
    ]
