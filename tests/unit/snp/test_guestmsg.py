"""Bytes of /dev/sev-guest: numbers and layouts against Linux's header, answers whole or refused, error words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FirmwareError, FormatError, Truncated
from snp import guestmsg as msg
from snp.abi import REPORT_SIZE, Report
from snp.certtable import MAX_SIZE, build, parse, used

HEADER = Path("/usr/include/linux/sev-guest.h")
REPORT = Report.build(report_data=bytes(range(64))).data
RESPONSE = msg.report_response(REPORT)


def test_numbers_and_sizes_are_linux_s() -> None:
    assert (msg.GET_REPORT, msg.GET_DERIVED_KEY, msg.GET_EXT_REPORT) == (0xC0205300, 0xC0205301, 0xC0205302)
    sizes = {msg.GuestRequest: 32, msg.ReportRequest: 96, msg.ExtReportRequest: 112, msg.DerivedKeyRequest: 32}
    assert all(size == record.SIZE for record, size in sizes.items())
    assert len(RESPONSE) == msg.REPORT_RESPONSE == 4000
    assert len(msg.key_response(bytes(32))) == msg.KEY_RESPONSE == 64


@pytest.mark.skipif(not HEADER.exists(), reason="linux-libc-dev is not installed")
def test_the_header_says_the_same() -> None:
    text = HEADER.read_text()
    errors = dict(re.findall(r"#define SNP_GUEST_VMM_ERR_(\w+)\s+(\d+)\n", text))
    assert (errors["INVALID_LEN"], errors["BUSY"]) == (str(msg.VMM_INVALID_LEN), str(msg.VMM_BUSY))
    numbers = dict(re.findall(r"#define (SNP_GET_\w+) _IOWR\(SNP_GUEST_REQ_IOC_TYPE, 0x(\d),", text))
    assert numbers == {"SNP_GET_REPORT": "0", "SNP_GET_DERIVED_KEY": "1", "SNP_GET_EXT_REPORT": "2"}


def test_fields_lie_where_the_firmware_looks() -> None:
    report = msg.ReportRequest.build(user_data=b"d" * 64, vmpl=2, key_sel=1).data
    assert report == b"d" * 64 + bytes([2, 0, 0, 0, 1, 0, 0, 0]) + bytes(24)
    extended = msg.ExtReportRequest.build(request=report, certs_address=0x1122, certs_len=0x4000).data
    assert extended == report + (0x1122).to_bytes(8, "little") + (0x4000).to_bytes(8, "little")
    key = msg.DerivedKeyRequest.build(root_key_select=1, guest_field_select=9, vmpl=3, guest_svn=7, tcb_version=5)
    cuts = ((0, 8), (8, 16), (16, 20), (20, 24), (24, 32))
    assert [int.from_bytes(key.data[at:end], "little") for at, end in cuts] == [1, 9, 3, 7, 5]


def test_exitinfo2_has_two_halves() -> None:
    assert msg.exitinfo2(vmm=1) == 0x1_0000_0000
    assert msg.split(msg.exitinfo2(vmm=2, firmware=0x16)) == (2, 0x16)


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (0, ""),
        (0x1_0000_0000, "too small (VMM 0x1)"),
        (0x2_0000_0000, "throttling this guest's requests (VMM 0x2)"),
        (0x2_0000_0016, "throttling this guest's requests (VMM 0x2)"),
        (0x9_0000_0000, "the host refused (VMM 0x9)"),
        (0x16, "a parameter is invalid"),
        (0xFF, "the firmware was not called"),
        (0xFFFF_FFFF, "the firmware was not called"),
        (0x7777, "does not know (firmware 0x7777)"),
    ],
)
def test_error_words(word: int, words: str) -> None:
    assert words in msg.error_words(word)


def test_a_report_and_its_answer() -> None:
    assert msg.report_of(RESPONSE) == REPORT
    assert msg.report_of(msg.report_response(REPORT + b"more")) == REPORT + b"more"
    with pytest.raises(FirmwareError) as caught:
        msg.report_of(msg.report_response(REPORT, 0x16))
    assert caught.value.status == 0x16


def test_every_cut_is_refused() -> None:
    for size in range(msg.ReportHead.SIZE + REPORT_SIZE):
        with pytest.raises(Truncated):
            msg.report_of(RESPONSE[:size])


def test_every_bit_of_the_head() -> None:
    """A status refuses, another size gives another length or nothing, reserved bytes are not judged."""
    for bit in range(8 * msg.ReportHead.SIZE):
        changed = bytearray(RESPONSE)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            got = msg.report_of(bytes(changed))
        except FirmwareError as error:
            assert bit < 32
            assert error.status == 1 << bit
        except Truncated:
            assert 32 <= bit < 64
        else:
            assert bit >= 64 or len(got) > len(REPORT)


@given(st.binary(max_size=200) | st.binary(min_size=1300, max_size=1300))
def test_any_bytes(data: bytes) -> None:
    try:
        got = msg.report_of(data)
    except (FirmwareError, FormatError):
        return
    assert got in data


def test_what_a_key_is_bound_to() -> None:
    assert msg.field_select(()) == 0
    assert msg.field_select(msg.FIELDS) == 0b111111
    assert msg.field_select(["measurement", "measurement"]) == 8
    with pytest.raises(FormatError, match="'colour'"):
        msg.field_select(["colour"])


@given(st.dictionaries(st.sampled_from(["ARK", "ASK", "VCEK", "CRL"]), st.binary(min_size=1, max_size=80)))
def test_a_table_in_a_larger_buffer(entries: dict[str, bytes]) -> None:
    table = build(entries)
    assert used(table.ljust(4096, b"\0")) == (table if entries else b"")


@given(st.binary(max_size=300))
def test_any_buffer_keeps_what_parse_would_read(data: bytes) -> None:
    cut = used(data)
    assert data.startswith(cut)
    assert len(cut) <= MAX_SIZE
    try:
        found = parse(data)
    except FormatError:
        return
    assert parse(cut) == found
