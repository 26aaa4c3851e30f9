"""TDREPORT: every byte has one place, a report hangs together, every flipped bit shows."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from tdx import report as tdreport
from tdx.abi import Body, Body15
from tdx.report import TdReport

VALUES = {
    field.name: index + 1 if field.name in ("subtype", "version", "valid") else bytes([index + 1]) * field.size
    for index, field in enumerate(TdReport.FIELDS)
    if field.name != "report_type"
}
REPORT = TdReport.build(report_type=tdreport.TYPE_TDX, **VALUES).with_hashes()


def test_it_is_read_as_it_was_made() -> None:
    read = tdreport.parse(REPORT.data)
    assert read == REPORT
    assert read.consistent
    assert read.rtmr3 == VALUES["rtmr3"]
    assert tdreport.report_data(REPORT.data) == REPORT.data[128:192] == VALUES["report_data"]
    assert read.fields()["mr_td"] == read.mr_td.hex()


def test_hashes_are_over_both_parts() -> None:
    assert REPORT.tee_tcb_info_hash == hashlib.sha384(REPORT.data[256:495]).digest()
    assert REPORT.tee_info_hash == hashlib.sha384(REPORT.data[512:]).digest()


@pytest.mark.parametrize("kind", [Body, Body15])
def test_a_quote_takes_over_every_value(kind: type[Body]) -> None:
    body = REPORT.body(kind)
    assert body.values() == {name: getattr(REPORT, name) for name in body.values()}
    assert kind.parse(body.data) == body


def test_every_bit() -> None:
    """A changed bit is refused, changes a value of its own, or breaks a hash."""
    for bit in range(8 * tdreport.SIZE):
        changed = bytearray(REPORT.data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            read = tdreport.parse(bytes(changed))
        except FormatError:
            continue
        assert [name for name, value in read.values().items() if value != getattr(REPORT, name)]
        assert read.consistent == (bit < 8 * 32 or 8 * 128 <= bit < 8 * 256)


def test_every_length() -> None:
    for size in range(tdreport.SIZE):
        with pytest.raises(Truncated):
            tdreport.parse(REPORT.data[:size])
        with pytest.raises(FormatError):
            tdreport.report_data(REPORT.data[:size])
    with pytest.raises(Oversized):
        tdreport.parse(REPORT.data + b"\0")


def test_another_kind_of_report() -> None:
    for read in (tdreport.parse, tdreport.report_data):
        with pytest.raises(UnsupportedVersion, match="0x0 is not a TD's"):
            read(b"\0" + REPORT.data[1:])


def test_reserved_bytes_are_the_parser_s_matter() -> None:
    later = REPORT.data[:-1] + b"\1"
    with pytest.raises(FormatError, match="reserved"):
        tdreport.parse(later)
    assert tdreport.report_data(later) == VALUES["report_data"]


@given(st.binary(max_size=64) | st.binary(min_size=1024, max_size=1024).map(lambda data: b"\x81" + data[1:]))
def test_any_bytes(data: bytes) -> None:
    for read in (tdreport.parse, tdreport.report_data):
        try:
            read(data)
        except FormatError:
            pass
