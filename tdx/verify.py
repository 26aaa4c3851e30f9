"""Whether a TDX quote is to be believed, and what follows from Intel's statements. Signatures only, no policy.

Checks, in this order (the numbers are those in ``Verified.checks`` and in the code):

 1. header: TEE type TDX, ECDSA P-256 attestation key, Intel's quoting enclave vendor
 2. PCK chain: leaf, intermediate, root in this order, names, roles, signatures, root's key among the anchors
 3. PCK chain is within its dates at ``at``
 4. QE report is signed by the PCK key
 5. QE report data is SHA-256(attestation key || authentication data) || zeros
 6. quoting enclave: Intel's signer, the TD quoting enclave's product, not in debug mode
 7. quote is signed by the attestation key, over header and body
 8. TDX module is Intel's production module: signer and attributes zero
 9. collateral: TCB info and QE identity are signed by a TCB signer under the same root, which is within its dates
10. collateral is within its dates
11. collateral is for this platform: FMSPC and PCEID
12. TCB: enclave and module are those stated, the merged status is not a failure
13. revocation: CRLs are signed and current; neither leaf, intermediate nor TCB signer is revoked
14. REPORT_DATA is the expected one

9 to 12 need TCB info and QE identity (both or neither), 13 CRLs, 14 an expected value; what was not given is listed
in ``Verified.not_checked``. Left to the caller: the debug attribute, measurements, and which status other than
NoMatchingLevel and Revoked is acceptable. Source: Intel TDX DCAP Quoting Library API, chapter on verification.

Chains and collateral that verified are remembered by their exact bytes; dates and revocation are judged every time.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from agent.core.errors import BindingMismatch, TcbRejected, VerificationError
from agent.core.model import Endorsements, ReportData, Tee, TrustAnchor, Verified
from tdx import abi, certs, roots
from tdx.appraise import KEPT, Appraisal, collateral, crls
from tdx.chain import PckChain, trusted_chain
from tdx.ledger import Ledger

_QE_FLAGS, _QE_FLAGS_MASK = 0x11, 0x13
"""INIT and PROVISION_KEY set, DEBUG clear (SGX ATTRIBUTES, first byte)."""
_TITLES = {
    1: "header",
    2: "PCK certificate chain",
    3: "PCK certificate chain dates",
    4: "QE report signature",
    5: "attestation key bound by QE report",
    6: "quoting enclave is Intel's",
    7: "quote signature",
    8: "TDX module is Intel's",
    9: "collateral signatures",
    10: "collateral dates",
    11: "collateral is for this platform",
    12: "TCB status",
    13: "revocation",
    14: "REPORT_DATA",
}


@lru_cache(KEPT)
def _chain(pem: bytes, anchors: tuple[TrustAnchor, ...]) -> PckChain:
    return trusted_chain(pem, anchors)


@lru_cache(KEPT * 8)
def _require_qe_signature(leaf: certs.Certificate, qe_report: bytes, signature: bytes) -> None:
    certs.require_signature(leaf.key, signature, qe_report, "QE report")


def forget() -> None:
    """Empty the memories, so that the next verification starts cold (measurements, tests)."""
    for memory in (_chain, collateral, crls, _require_qe_signature):
        memory.cache_clear()


def verify(
    blob: bytes,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    *,
    report_data: ReportData | None = None,
) -> Verified:
    """A quote as delivered, judged at ``at`` (aware) under ``anchors``.

    The PCK chain comes from the quote; TCB signer, collateral and CRLs from ``endorsements``, whose other contents
    are ignored. Raises VerificationError subclasses with ``checks``, and FormatError for a quote or collateral that
    is malformed.
    """
    quote = abi.parse(blob)
    ledger = Ledger(_TITLES)
    with ledger.check(1):
        _require_header(quote.header)
    with ledger.check(2) as detail:
        chain = _chain(quote.certificates, tuple(anchors))
        detail.append(f"root: {chain.anchor.name}")
    with ledger.check(3):
        for certificate in chain:
            certificate.require_valid(at)
    _check_quote(ledger, quote, chain)
    appraisal = Appraisal(ledger, chain, at)
    appraisal.judge_tcb(quote, endorsements)
    appraisal.judge_revocation(endorsements.crls)
    if report_data is not None:
        with ledger.check(14):
            if not hmac.compare_digest(quote.body.report_data, report_data.value):
                raise BindingMismatch("REPORT_DATA in the quote is not the expected one")
    else:
        appraisal.not_checked.append("REPORT_DATA: no expected value was given")
    return Verified(
        tee=Tee.TDX,
        version=quote.header.version,
        report_data=quote.body.report_data,
        fields=quote.fields() | chain.fields() | appraisal.fields(),
        root=chain.anchor,
        checks=tuple(ledger.made),
        not_checked=tuple(appraisal.not_checked),
        tcb_status=appraisal.status,
        advisories=appraisal.advisories,
        revocation=appraisal.revocation,
        not_after=min([certificate.not_after for certificate in chain] + appraisal.ends),
    )


def _require_header(header: abi.Header) -> None:
    if header.tee_type != abi.TEE_TDX:
        raise VerificationError(f"quote is of TEE type 0x{header.tee_type:x}, not TDX", code="verify.header")
    if header.att_key_type != abi.ECDSA_P256:
        raise VerificationError(
            f"attestation key type {header.att_key_type} is not supported, 2 (ECDSA P-256) is", code="verify.header"
        )
    if header.qe_vendor_id != abi.INTEL_QE_VENDOR:
        raise VerificationError("quoting enclave's vendor is not Intel", code="verify.header")


def _check_quote(ledger: Ledger, quote: abi.Quote, chain: PckChain) -> None:
    qe = quote.qe_report
    with ledger.check(4):
        _require_qe_signature(chain.leaf, qe.data, quote.qe_signature)
    with ledger.check(5):
        bound = hashlib.sha256(quote.attestation_key + quote.auth_data).digest() + bytes(32)
        if not hmac.compare_digest(bound, qe.report_data):
            raise BindingMismatch("QE report does not vouch for this attestation key")
    with ledger.check(6):
        flags = qe.attributes[0] & _QE_FLAGS_MASK
        if qe.mrsigner != roots.QE_MRSIGNER or qe.isvprodid != roots.QE_PRODUCT or flags != _QE_FLAGS:
            raise TcbRejected(
                "quoting enclave is not Intel's TD quoting enclave in production mode", code="verify.tcb.qe"
            )
    with ledger.check(7):
        certs.require_signature(certs.point(quote.attestation_key), quote.signature, quote.signed, "quote")
    with ledger.check(8):
        if any(quote.body.mr_signer_seam) or any(quote.body.seam_attributes):
            raise TcbRejected("TDX module is not Intel's production module", code="verify.tcb.module")
