"""TDX quotes with full collateral against dcap-qvl, a Rust library with Python bindings, in one process; parsing.

Both judge the same simulated platform under the same added root, at the same instant. dcap-qvl keeps nothing between
calls: "cold" is both with nothing kept, "warm" is ours with the platform's chains and collateral judged before.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

import dcap_qvl

import snp.abi
import snp.certtable
import tdx.abi
import tdx.verify
from agent.core.model import TrustAnchor
from agent.core.x509 import subject_public_key_info
from bench.figure import Figure, paired, rate
from sim import keys
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave

SECONDS = 1.0
PEER = "dcap-qvl"


def tdx_and_parsing() -> list[Figure]:
    """TDX quotes verified against dcap-qvl, and how long parsing takes"""
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as folder:
        platform = QuotingEnclave(State(Path(folder)), DomainOptions(), now)
        processor = SecureProcessor(State(Path(folder)), GuestOptions(), now)
    quote = bytes(platform.report(bytes(64)).outblob)
    made = processor.report(bytes(64), 0)
    return [*_tdx(platform, quote, now), *_parsing(quote, bytes(made.outblob), bytes(made.auxblob))]


def _tdx(platform: QuotingEnclave, quote: bytes, now: datetime) -> list[Figure]:
    root = keys.der(platform.root)
    anchors = (TrustAnchor("simulator", sha256(subject_public_key_info(root)).digest()),)
    warm = partial(tdx.verify.verify, quote, platform.endorsements(), anchors, now)
    peer = _peer(platform, quote, root, now)
    if warm().tcb_status != peer():
        raise RuntimeError("the two verifiers disagree: there is nothing to compare")

    def cold() -> object:
        tdx.verify.forget()
        return warm()

    return [
        _against("TDX quote, nothing kept / dcap-qvl", 0.4, cold, peer),
        _against("TDX quote, warm / dcap-qvl", 2.0, warm, peer),
    ]


def _peer(platform: QuotingEnclave, quote: bytes, root: bytes, now: datetime) -> Callable[[], str]:
    """dcap-qvl's verification of the same; its word for the TCB's status."""
    found, crls, at = platform.certificates(), platform.crls(), int(now.timestamp())

    def chain(*names: str) -> str:
        return b"".join(keys.pem_of(found[name]) for name in names).decode()

    tcb, identity = json.loads(platform.tcb_info), json.loads(platform.qe_identity)
    collateral = dcap_qvl.QuoteCollateralV3(
        chain("pck-platform-ca", "root-ca"),
        crls["root-ca"],
        crls["pck-platform-ca"],
        chain("tcb-signing", "root-ca"),
        _signed(platform.tcb_info),
        bytes.fromhex(tcb["signature"]),
        chain("tcb-signing", "root-ca"),
        _signed(platform.qe_identity),
        bytes.fromhex(identity["signature"]),
    )
    return lambda: str(dcap_qvl.verify_with_root_ca(quote, collateral, root, at).status)


def _signed(body: bytes) -> str:
    """The inner object's text, exactly as it was signed."""
    start = body.index(b":") + 1
    return body[start : body.rindex(b"}", 0, body.rindex(b',"signature"')) + 1].decode()


def _against(name: str, bar: float, work: Callable[[], object], peer: Callable[[], object]) -> Figure:
    ours, theirs, ratio = paired(lambda: rate(work, SECONDS), lambda: rate(peer, SECONDS))
    return Figure(name, ratio, "x", bar, True, PEER, f"{ours:.0f}/s against {theirs:.0f}/s")


def _parsing(quote: bytes, report: bytes, table: bytes) -> list[Figure]:
    """Bytes to checked values, microseconds each."""
    formats: dict[str, Callable[[], object]] = {
        "SNP report parsed": partial(snp.abi.parse, report),
        "SNP certificate table parsed": partial(snp.certtable.parse, table),
        "TDX quote parsed": partial(tdx.abi.parse, quote),
    }
    return [
        Figure(name, 1e6 / rate(work, SECONDS / 2), "us", None, False, "none", "") for name, work in formats.items()
    ]
