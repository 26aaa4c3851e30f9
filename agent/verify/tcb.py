"""Which firmware a machine's evidence speaks for, as bytes to compare: another value, another TCB.

Nothing is verified, and no order is known: a guest's evidence changes when the host updates its firmware, and when a
machine moves to another host. AMD: the TCB_VERSIONs of a report (56860); Intel: TEE_TCB_SVN of the TD report, CPUSVN
and ISVSVN of the quoting enclave's report (TDX module base specification, SDM volume 3D).
"""

from __future__ import annotations

import struct

import snp.abi
import tdx.abi
from agent.core.errors import FormatError
from agent.core.model import Tee

UNKNOWN = b""
"""For evidence that can't be read: its TCB is neither like another nor unlike."""


def tcb_of(tee: Tee, blob: bytes) -> bytes:
    """The TCB's versions in ``blob``, a report or a quote; UNKNOWN where it is neither."""
    try:
        return _snp(blob) if tee is Tee.SNP else _tdx(blob)
    except FormatError:
        return UNKNOWN


def changed(before: bytes, after: bytes) -> bool:
    """Whether two of them differ, both known."""
    return UNKNOWN not in (before, after) and before != after


def _snp(blob: bytes) -> bytes:
    report = snp.abi.parse(blob)
    return struct.pack("<4Q", report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb)


def _tdx(blob: bytes) -> bytes:
    quote = tdx.abi.parse(blob)
    body = quote.body
    now = body.tee_tcb_svn_2 if isinstance(body, tdx.abi.Body15) else b""
    return b"".join((body.tee_tcb_svn, now, quote.qe_report.cpusvn, struct.pack("<H", quote.qe_report.isvsvn)))
