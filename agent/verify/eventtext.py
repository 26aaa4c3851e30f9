"""Event logs for people: what was measured, and what is only said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agent.core.canonical import printable
from tdx.event import Event
from tdx.eventdata import Coverage, coverage
from tdx.eventlog import Log, Register, replay
from tdx.eventwords import words

LEGEND = (
    "claimed: no digest covers these words: they are what the host, or whoever else wrote or passed on the log, says",
    "value:   the digest covers the value behind the colon; the name before it is claimed",
    "FALSE:   these words are not what was measured",
    "The type of an event is never covered by its digest.",
)

_MARKS = {
    Coverage.DATA: "",
    Coverage.PART: "value: ",
    Coverage.NONE: "claimed: ",
    Coverage.NOT_EXTENDED: "claimed: ",
    Coverage.DIFFERS: "FALSE: ",
}


def log_lines(log: Log) -> Iterator[str]:
    """All events, one line each, and what they replay to."""
    yield f"event log: {log.form}, {len(log.events)} entries; the log alone is no evidence"
    for event in log.events:
        yield f"{event.number:>4}  {_place(event)}  {event.type_name:<32}  {_said(event)}"
    yield from LEGEND
    yield "replayed:"
    yield from (f"  rtmr{index} {value.hex()}" for index, value in replay(log.events).items())


def register_lines(registers: Sequence[Register], source: str) -> Iterator[str]:
    """The verdict on each register; ``source`` says where their values are from."""
    yield f"registers from {source}:"
    for register in registers:
        detail = f": {register.detail}" if register.detail else ""
        yield f"  rtmr{register.index}  {register.status} ({register.events} events){printable(detail)}"


def live_lines(registers: Mapping[str, bytes]) -> Iterator[str]:
    """This machine's registers by the kernel's names."""
    if registers:
        yield "registers of this machine, as its kernel shows them:"
    yield from (f"  {name:<20} {value.hex()}" for name, value in registers.items())


def _place(event: Event) -> str:
    if not event.extended:
        return "-    "
    return f"rtmr{event.register}"


def _said(event: Event) -> str:
    # A line of the log must never look like another one: line ends are escaped as well.
    return _MARKS[coverage(event)] + printable(words(event).rstrip("\n"))
