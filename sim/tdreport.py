"""A simulated TDX module: TDREPORTs of one trust domain, and the platform's check that it made one.

Layout: Intel TDX Module 1.5 ABI specification (348551), TDREPORT_STRUCT: REPORTMACSTRUCT, TEE_TCB_INFO, TDINFO_STRUCT.
A processor's MAC key never leaves it; this one lies in the simulator's state folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from sim.kernel import Made
from sim.keys import State
from sim.qe import QuotingEnclave
from tdx import abi

SIZE = 1024
_TYPE = bytes((0x81, 0, 1, 0))
"""A TDX report, version 1: with a service TD's hash."""
_MACED, _MAC = slice(0, 224), slice(224, 256)
_TCB, _TCB_SIZE = slice(256, 495), 239
_INFO, _INFO_SIZE = slice(512, 1024), 512
_TCB_HASH, _INFO_HASH = slice(32, 80), slice(80, 128)
_REPORT_DATA = slice(128, 192)
_VALID = bytes.fromhex("ff01030000000000")
"""Which parts of TEE_TCB_INFO are valid: those of TDX 1.5."""


class TdxModule:
    """The module below a trust domain on ``enclave``'s platform. Fulfils sim.faults.Hardware: outblob is a TDREPORT."""

    name = "tdx_guest"
    privlevel_floor = None
    has_auxblob = False

    def __init__(self, state: State, enclave: QuotingEnclave) -> None:
        self._enclave = enclave
        with state.locked():
            self._key = state.kept("intel-report-key", lambda: os.urandom(32))

    def report(self, report_data: bytes, privlevel: int = 0, *, debug: bool = False) -> Made:
        """A TDREPORT over ``report_data`` (64 bytes) of the domain as the enclave's quotes show it."""
        body = abi.parse(self._enclave.report(report_data, privlevel, debug=debug).outblob).body
        tcb, info = _tcb_info(body), _td_info(body)
        hashes = hashlib.sha384(tcb).digest() + hashlib.sha384(info).digest()
        # The processor's SVN is the quoting enclave's to tell; it stays zero here.
        maced = (_TYPE.ljust(32, b"\0") + hashes + report_data).ljust(224, b"\0")
        return Made((maced + self._mac(maced) + tcb).ljust(512, b"\0") + info)

    def quote(self, report: bytes) -> bytes:
        """The quote for a TDREPORT of this platform. Raises ValueError for any other bytes."""
        hashes = hashlib.sha384(report[_TCB]).digest() + hashlib.sha384(report[_INFO]).digest()
        if len(report) != SIZE or report[:4] != _TYPE or hashes != report[_TCB_HASH] + report[_INFO_HASH]:
            raise ValueError("no TDREPORT")
        if not hmac.compare_digest(self._mac(report[_MACED]), report[_MAC]):
            raise ValueError("a TDREPORT of another platform")
        return self._enclave.report(report[_REPORT_DATA], debug=bool(report[_INFO][0] & abi.TD_DEBUG)).outblob

    def _mac(self, maced: bytes) -> bytes:
        return hmac.new(self._key, maced, hashlib.sha256).digest()


def _tcb_info(body: abi.Body) -> bytes:
    second = body.tee_tcb_svn_2 if isinstance(body, abi.Body15) else body.tee_tcb_svn
    parts = (_VALID, body.tee_tcb_svn, body.mr_seam, body.mr_signer_seam, body.seam_attributes, second)
    return b"".join(parts).ljust(_TCB_SIZE, b"\0")


def _td_info(body: abi.Body) -> bytes:
    owners = (body.mr_config_id, body.mr_owner, body.mr_owner_config)
    registers = (body.rtmr0, body.rtmr1, body.rtmr2, body.rtmr3)
    service = body.mr_service_td if isinstance(body, abi.Body15) else bytes(48)
    parts = (body.td_attributes, body.xfam, body.mr_td, *owners, *registers, service)
    return b"".join(parts).ljust(_INFO_SIZE, b"\0")
