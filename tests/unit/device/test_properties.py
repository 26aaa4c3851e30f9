"""Whatever host, firmware and quote service do, in any order: evidence over our data, or a typed error, and an end."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import TeeAgentError
from agent.core.ports import QuoteSource
from agent.deadline import Deadline
from snp import guestmsg as msg
from tdx import qgs
from tests.unit.device import test_sev, test_tdx
from tests.unit.device.driver import SevDriver, TdxDriver, report

FAULTS = st.tuples(
    st.sampled_from([errno.EIO, errno.EBUSY, errno.EINTR, errno.ETIMEDOUT, errno.ENOTTY, errno.EINVAL, errno.EBADMSG]),
    st.sampled_from([0, 0xFF, 0x16, 0x1D, 1 << 32, 2 << 32, 1 << 63, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1),
)
ROOMS = st.sampled_from([0, msg.PAGE, msg.MAX_CERTS])
HEADS = st.binary(max_size=40) | st.builds(
    lambda status, size: msg.ReportHead.build(status=status, report_size=size).data,
    st.sampled_from([0, 0, 0x16]),
    st.sampled_from([1184, 0, 3968, 3969]),
)


def ends_well(source: QuoteSource) -> bool:
    """Evidence over our data (True), or a typed error."""
    try:
        evidence = source.quote(test_sev.DATA, deadline=Deadline(60, "test"))
    except TeeAgentError as error:
        assert error.message
        return False
    assert test_sev.DATA.value in evidence.blob
    return True


@settings(max_examples=60, deadline=None)
@given(st.lists(FAULTS, max_size=5), st.booleans(), ROOMS, st.none() | st.integers(0, (1 << 32) - 1))
def test_any_faults_of_the_driver(faults: list[tuple[int, int]], wipes: bool, room: int, wanted: int | None) -> None:
    driver = SevDriver(faults, table=test_sev.TABLE, wipes=wipes)
    if wanted is not None:
        driver.wanted = lambda _: wanted
    with tempfile.TemporaryDirectory() as folder:
        well = ends_well(test_sev.source(Path(folder), driver, room=room))
    assert well or faults


@settings(max_examples=40, deadline=None)
@given(HEADS, st.binary(max_size=100))
def test_any_answer_of_the_firmware(head: bytes, table: bytes) -> None:
    def response(request: msg.ReportRequest) -> bytes:
        return (head.ljust(32, b"\0") + report(request)).ljust(msg.REPORT_RESPONSE, b"\0")[: msg.REPORT_RESPONSE]

    with tempfile.TemporaryDirectory() as folder:
        ends_well(test_sev.source(Path(folder), SevDriver(table=table, response=response)))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 1 << 21), st.booleans())
def test_any_answer_of_the_quote_service(data: bytes, size: int, framed: bool) -> None:
    def answer(request: qgs.Request) -> bytes:
        return (size.to_bytes(4, "big") if framed else b"") + data

    host = test_tdx.Host(answer, test_tdx.good)
    with tempfile.TemporaryDirectory() as folder:
        ends_well(test_tdx.source(Path(folder), TdxDriver(), host))
