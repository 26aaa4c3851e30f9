"""An event log against registers: the numbered checks, and words that never look like more than they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.core.errors import FormatError, UsageError, VerificationError
from agent.core.model import Check, Tee, TrustAnchor, Verified
from agent.verify.eventlog import judge, judge_evidence, log_json, quote_registers
from agent.verify.eventtext import log_lines, register_lines
from tdx import ccel, eventlog
from tdx import event as ev
from tdx.event import Event
from tests.unit.tdx.logs import events, sha384

AREA = ccel.build(events(), 4096)
ACTUAL = eventlog.replay(events())
NAMES = [
    "event log: well-formed",
    *(f"event log: RTMR{index}" for index in range(4)),
    "event log: data agree with their digests",
]


def verified(tee: Tee = Tee.TDX) -> Verified:
    fields = {f"rtmr{index}": value.hex() for index, value in ACTUAL.items()}
    made = (Check(1, "header", True), Check(2, "signature", True))
    return Verified(tee, 5, bytes(64), fields, TrustAnchor("root", bytes(32)), made, ("nothing",))


def test_all_checks_pass() -> None:
    judged = judge(AREA, ACTUAL)
    assert judged.ok
    assert [(c.number, c.name, c.ok) for c in judged.checks] == [(n, name, True) for n, name in enumerate(NAMES, 1)]
    assert judged.checks[0].detail == "ccel, 6 events"
    assert judged.not_checked == (
        "event log: the types of all events, and the data of 2 of them: no digest covers them",
    )


@pytest.mark.parametrize("index", range(4))
def test_each_register_counts(index: int) -> None:
    judged = judge(AREA, {**ACTUAL, index: b"\1" * 48})
    assert [check.ok for check in judged.checks] == [at != index + 1 for at in range(6)]
    error = judged.problem()
    assert (error.code, error.exit_status) == ("verify.eventlog", 65)
    assert error.message.startswith(f"event log: RTMR{index}: ")
    assert [check.number for check in error.checks] == list(range(1, index + 3))


def test_false_data_fail_although_the_registers_match() -> None:
    lying = replace(events()[0], data=events()[0].data[:-1] + b"\0")
    judged = judge(ccel.build([lying, *events()[1:]]), ACTUAL)
    assert [check.ok for check in judged.checks] == [True] * 5 + [False]
    assert "event 2 (EV_EFI_VARIABLE_DRIVER_CONFIG) has other data" in judged.problem().message


def test_evidence_gets_the_checks_behind_its_own() -> None:
    found = judge_evidence(verified(), AREA)
    assert [check.number for check in found.checks] == list(range(1, 9))
    assert [check.name for check in found.checks[2:]] == NAMES
    assert found.not_checked[0] == "nothing"
    other = ccel.build(events()[:-1])
    with pytest.raises(VerificationError, match="RTMR2") as caught:
        judge_evidence(verified(), other)
    assert [check.number for check in caught.value.checks] == [1, 2, 3, 4, 5, 6]
    assert caught.value.checks[:2] == verified().checks


def test_evidence_without_registers_and_a_log_that_is_none() -> None:
    with pytest.raises(UsageError, match="SNP"):
        judge_evidence(verified(Tee.SNP), AREA)
    with pytest.raises(FormatError):
        judge_evidence(verified(), b"no log")
    with pytest.raises(FormatError) as caught:
        quote_registers(b"\4\0\2\0")
    assert "evidence collect" in caught.value.hint


def test_json_marks_claims() -> None:
    document = log_json(eventlog.parse(AREA))
    assert document["rtmrs"] == {f"rtmr{index}": value.hex() for index, value in ACTUAL.items()}
    rows = document["events"]
    assert [row["number"] for row in rows] == list(range(1, 9))
    assert [row["measured"] for row in rows] == [False, True, True, True, False, False, True, False]
    assert [row["register"] for row in rows][3:6] == ["rtmr0", "rtmr1", None]
    assert rows[5]["digest"] is None
    assert rows[6]["coverage"] == "value covered, its name is not"


def test_text_marks_claims_and_falsehoods() -> None:
    lying = replace(events()[0], data=events()[0].data[:-1] + b"\0")
    lines = list(log_lines(eventlog.Log("ccel", (lying, *events()[1:]))))
    said = {line.split()[0]: line.split(maxsplit=3)[3] for line in lines[1:8]}
    assert said["2"] == "FALSE: SecureBoot (EFI global): off"
    assert said["3"] == "from here on the operating system's loader"
    assert said["4"].startswith("value: BootOrder")
    assert said["5"].startswith("claimed: \\EFI")
    assert said["6"] == "claimed: not extended"
    assert said["7"] == "value: grub_cmd: linux /vmlinuz"
    assert said["8"].startswith("claimed: Linux: initrd")


def test_an_event_can_t_forge_a_line() -> None:
    text = b"x\n  99  rtmr0  EV_EFI_ACTION   forged\x1b[2J"
    hostile = Event(2, 0, ev.EFI_ACTION, sha384(text), text)
    made = list(log_lines(eventlog.Log("ccel", (hostile,))))
    assert not [line for line in made if "\n" in line or "\x1b" in line]
    named = replace(hostile, kind=ev.DSTACK_RUNTIME, name="a", data=b"b\nc")
    assert "\n" not in "".join(log_lines(eventlog.Log("json", (named,))))


def test_register_lines() -> None:
    lines = list(register_lines(judge(AREA, {**ACTUAL, 3: b"\1" * 48}).registers, "the quote"))
    assert lines[0] == "registers from the quote:"
    assert lines[1] == "  rtmr0  matches (3 events)"
    assert lines[4].startswith("  rtmr3  differs (0 events): the log has no events for it")
