"""/dev/tdx_guest, and what the quote generation service makes of its reports."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sim.devices import TDX_GET_REPORT0, TdxGuest
from sim.faults import ERRNOS, Faults, FaultyProvider, parse
from sim.keys import State
from sim.qe import DomainOptions, QuotingEnclave
from sim.qgs import REPORT_UNVERIFIED, answer
from sim.tdreport import TdxModule
from tdx import abi, qgs
from tdx import report as tdreport
from tests.support.cuse import kernel

DATA = bytes(range(64))


def module(state: Path) -> TdxModule:
    return TdxModule(State(state), QuotingEnclave(State(state), DomainOptions(rtmr0=b"\1" * 48), datetime.now(UTC)))


def taken(made: TdxModule, faults: Faults) -> bytes:
    """A TDREPORT by the ioctl."""
    buffer = bytearray(DATA + bytes(tdreport.SIZE))
    assert kernel(TdxGuest(FaultyProvider(made, faults))).ioctl(0, TDX_GET_REPORT0, buffer) == 0
    assert buffer[:64] == DATA
    return bytes(buffer[64:])


def test_the_number_is_the_kernels() -> None:
    """_IOWR('T', 1, struct tdx_report_req) with 64 and 1024 bytes."""
    assert TDX_GET_REPORT0 == 0xC4405401


def test_a_report_becomes_a_quote(pki_state: Path) -> None:
    made = module(pki_state)
    shown = tdreport.parse(taken(made, Faults()))
    assert (shown.report_data, shown.rtmr0, shown.consistent, any(shown.mac)) == (DATA, b"\1" * 48, True, True)
    response = qgs.parse_response(answer(made, qgs.Request(shown.data).encode()))
    assert (response.error_code, response.selected_id) == (0, b"")
    body = abi.parse(response.quote).body
    assert body == shown.body(type(body))


def test_a_debug_domain_stays_one(pki_state: Path) -> None:
    made = module(pki_state)
    report = taken(made, Faults((parse("debug"),)))
    assert abi.parse(made.quote(report)).body.debug


def test_another_platforms_report_is_refused(pki_state: Path, tmp_path: Path) -> None:
    ours = module(pki_state)
    other = TdxModule(State(tmp_path / "another"), QuotingEnclave(State(pki_state), DomainOptions(), datetime.now(UTC)))
    report = tdreport.parse(taken(other, Faults()))
    assert other.quote(report.data)
    changed = tdreport.parse(taken(ours, Faults())).replace(report_data=bytes(64))
    consistent = tdreport.parse(taken(ours, Faults())).replace(rtmr3=b"\7" * 48).with_hashes()
    torn = tdreport.parse(taken(ours, Faults())).replace(rtmr3=b"\7" * 48)
    for foreign in (report, changed, consistent, torn):
        response = qgs.parse_response(answer(ours, qgs.Request(foreign.data).encode()))
        assert (response.error_code, response.quote) == (REPORT_UNVERIFIED, b"")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", qgs.INVALID_PARAMETER),
        (qgs.Request(b"short").encode()[:-1], qgs.INVALID_PARAMETER),
        (b"\2" + qgs.Request(b"short").encode()[1:], qgs.INVALID_VERSION),
        (qgs.Request(b"short").encode(), REPORT_UNVERIFIED),
        (qgs.Response(b"quote").encode(), qgs.INVALID_PARAMETER),
    ],
)
def test_what_is_no_request(pki_state: Path, message: bytes, code: int) -> None:
    assert qgs.parse_response(answer(module(pki_state), message)).error_code == code


@pytest.mark.parametrize("fault", ["ebusy", "eintr", "eio", "einval"])
def test_faults_are_errnos(pki_state: Path, fault: str) -> None:
    with pytest.raises(OSError) as caught:
        taken(module(pki_state), Faults((parse(fault),)))
    assert caught.value.errno == ERRNOS[fault]


def test_unknown_command(pki_state: Path) -> None:
    with pytest.raises(OSError) as caught:
        kernel(TdxGuest(module(pki_state))).ioctl(0, TDX_GET_REPORT0 + 1, bytearray(2000))
    assert caught.value.errno == errno.ENOTTY
