"""A simulated TDX module: TDREPORTs of one trust domain, and the platform's check that it made one.

Layout as tdx.report. A processor's MAC key never leaves it; this one lies in the simulator's state folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from agent.core.errors import FormatError
from sim.kernel import Made
from sim.keys import State
from sim.qe import QuotingEnclave
from tdx import abi
from tdx.report import TYPE_TDX, TdReport, parse

VERSION = 1
"""Of a TDREPORT with a second SVN and a service TD's hash."""
_VALID = 0x301FF
"""Which parts of TEE_TCB_INFO are valid: those of TDX 1.5."""
_MACED = 224
"""Bytes that the MAC covers: all before it."""


class TdxModule:
    """The module below a trust domain on ``enclave``'s platform. Fulfils sim.faults.Hardware: outblob is a TDREPORT."""

    name = "tdx_guest"
    privlevel_floor = None
    has_auxblob = False

    def __init__(self, state: State, enclave: QuotingEnclave) -> None:
        self._enclave = enclave
        with state.locked():
            self._key = state.kept("intel-report-key", lambda: os.urandom(32))

    def report(self, report_data: bytes, privlevel: int = 0, *, debug: bool = False, tcb_steps: int = 0) -> Made:
        """A TDREPORT over ``report_data`` (64 bytes) of the domain as the enclave's quotes show it."""
        quote = self._enclave.report(report_data, privlevel, debug=debug, tcb_steps=tcb_steps).outblob
        body = abi.parse(quote).body
        # The processor's own SVN stays zero: no quote shows it.
        shown = {field.name: getattr(body, field.name) for field in body.FIELDS}
        made = TdReport.build(report_type=TYPE_TDX, version=VERSION, valid=_VALID, **shown).with_hashes()
        return Made(made.replace(mac=self._mac(made)).data)

    def quote(self, data: bytes) -> bytes:
        """The quote for a TDREPORT of this platform. Raises ValueError for any other bytes."""
        try:
            shown = parse(data)
        except FormatError as error:
            raise ValueError("no TDREPORT") from error
        if not shown.consistent or not hmac.compare_digest(self._mac(shown), shown.mac):
            raise ValueError("a TDREPORT of another platform")
        debug = bool(shown.td_attributes[0] & abi.TD_DEBUG)
        before = abi.parse(self._enclave.report(shown.report_data).outblob).body
        steps = shown.tee_tcb_svn[0] - before.tee_tcb_svn[0]
        return self._enclave.report(shown.report_data, debug=debug, tcb_steps=steps).outblob

    def _mac(self, made: TdReport) -> bytes:
        return hmac.new(self._key, made.data[:_MACED], hashlib.sha256).digest()
