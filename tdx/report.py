"""TDREPORT_STRUCT: what the TDX module says of this TD, authenticated for this platform's quoting enclave only.

Source: Intel TDX Module ABI specification, TDREPORT_STRUCT, REPORTMACSTRUCT, REPORTTYPE, TEE_TCB_INFO, TDINFO_STRUCT.
1024 bytes: MAC structure 256 | TEE_TCB_INFO 239 | reserved 17 | TDINFO 512. Nobody else can check the MAC, so nothing
here decides trust: it says whether a report has the right form, is over our data, and hangs together.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from agent.core.errors import FormatError, UnsupportedVersion
from agent.core.wire import Record, raw, uint
from tdx.abi import Body

SIZE = 1024
TYPE_TDX = 0x81
_DATA = slice(128, 192)
_TCB_INFO = slice(256, 495)
_TDINFO = slice(512, 1024)
B = TypeVar("B", bound=Body)


class TdReport(Record, size=SIZE, title="TDREPORT"):
    """Names as in tdx.abi.Body. ``version`` 0 (TDX 1.0) has neither ``tee_tcb_svn_2`` nor ``mr_service_td``: zero."""

    report_type = uint(0, 8)
    subtype = uint(1, 8)
    version = uint(2, 8)
    cpusvn = raw(16, 16)
    tee_tcb_info_hash = raw(32, 48)
    tee_info_hash = raw(80, 48)
    report_data = raw(128, 64)
    mac = raw(224, 32)
    # TEE_TCB_INFO
    valid = uint(256, 64)
    tee_tcb_svn = raw(264, 16)
    mr_seam = raw(280, 48)
    mr_signer_seam = raw(328, 48)
    seam_attributes = raw(376, 8)
    tee_tcb_svn_2 = raw(384, 16)
    # TDINFO
    td_attributes = raw(512, 8)
    xfam = raw(520, 8)
    mr_td = raw(528, 48)
    mr_config_id = raw(576, 48)
    mr_owner = raw(624, 48)
    mr_owner_config = raw(672, 48)
    rtmr0 = raw(720, 48)
    rtmr1 = raw(768, 48)
    rtmr2 = raw(816, 48)
    rtmr3 = raw(864, 48)
    mr_service_td = raw(912, 48)

    @property
    def consistent(self) -> bool:
        """Do the two hashes fit what they are of? ``mac`` covers only them."""
        return self._hashes() == (self.tee_tcb_info_hash, self.tee_info_hash)

    def with_hashes(self) -> TdReport:
        """A copy whose hashes fit (SHA-384): what the module does before the MAC."""
        tcb_info, info = self._hashes()
        return self.replace(tee_tcb_info_hash=tcb_info, tee_info_hash=info)

    def body(self, kind: type[B]) -> B:
        """The part that a quote takes over, as one of tdx.abi's bodies."""
        return kind.build(**{field.name: getattr(self, field.name) for field in kind.FIELDS})

    def fields(self) -> dict[str, Any]:
        """Every named value, JSON-able: byte strings as hex in file order."""
        return {name: value.hex() if isinstance(value, bytes) else value for name, value in self.values().items()}

    def _hashes(self) -> tuple[bytes, bytes]:
        return hashlib.sha384(self.data[_TCB_INFO]).digest(), hashlib.sha384(self.data[_TDINFO]).digest()


def parse(data: bytes) -> TdReport:
    """A TDREPORT of a TD. Raises Truncated, Oversized, UnsupportedVersion (not a TD's), FormatError."""
    if data and data[0] != TYPE_TDX:
        raise UnsupportedVersion(f"report type 0x{data[0]:x} is not a TD's (0x81)", record=TdReport.TITLE, offset=0)
    return TdReport.parse(data)


def report_data(data: bytes) -> bytes:
    """REPORTDATA of a TDREPORT of any version: reserved bytes are not judged.

    Raises FormatError, UnsupportedVersion (not a TD's).
    """
    if len(data) != SIZE:
        raise FormatError(f"TDREPORT has {len(data)} bytes, not {SIZE}", record=TdReport.TITLE)
    if data[0] != TYPE_TDX:
        raise UnsupportedVersion(f"report type 0x{data[0]:x} is not a TD's (0x81)", record=TdReport.TITLE, offset=0)
    return data[_DATA]
