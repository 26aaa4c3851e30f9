"""Is this report what an AMD processor signed? Form, chain, time, revocation, signature; policy is another layer's.

Checks, in this order, by the numbers that errors and results carry:

1. report format: known version, size, reserved bytes; signed, with ECDSA P-384 and SHA-384
2. certificates present: a leaf of the kind the report names (VCEK or VLEK), its issuer, a root
3. chain signatures: root by itself, issuer by root, leaf by issuer, in AMD's one profile
4. trusted root: the root's key is among the anchors
5. roles and product: names, authority to sign, one product throughout, the report's
6. certificates in date at the given time
7. revocation, if CRLs are given: one is the root's, signed, in date, and lists neither issuer nor root
8. leaf certificate is the report's: hwID = CHIP_ID (VCEK) or a provider named (VLEK), every part of REPORTED_TCB.
   A host may mask CHIP_ID (zero): then only a VLEK will do, which vouches for its provider's machines, not for a chip
9. report signature over its first 0x2A0 bytes
10. REPORT_DATA, if the caller says what it must be

The caller still has to appraise the fields (policy, floor, measurement), and to bind the report to something fresh.
Source: AMD 56860 (ATTESTATION_REPORT), AMD 57230 (chain, extensions).
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from datetime import datetime

from agent.core.errors import BindingMismatch, SignatureInvalid
from agent.core.model import Endorsements, ReportData, Tee, TrustAnchor, Verified
from snp import abi, certs, chain
from snp.abi import Report
from snp.chain import Chain, Trail

_WARM_CHAINS = 32
_WARM_BYTES = 256 * 1024
"""A bag above this is verified anew each time: strangers' bags must not fill the memory."""


class _Warm:
    """The last chains that verified, by everything they depend on but the time."""

    def __init__(self) -> None:
        self._chains: OrderedDict[Hashable, Chain] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, at: datetime) -> Chain | None:
        with self._lock:
            known = self._chains.get(key)
            if known is None or not known.starts <= at <= known.ends:
                return None
            self._chains.move_to_end(key)
            return known

    def put(self, key: Hashable, verified: Chain) -> None:
        with self._lock:
            self._chains[key] = verified
            self._chains.move_to_end(key)
            if len(self._chains) > _WARM_CHAINS:
                self._chains.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._chains.clear()


_warm = _Warm()


def forget() -> None:
    """Empty the memory, so that the next verification starts cold (measurements, tests)."""
    _warm.clear()


def verify(
    blob: bytes,
    endorsements: Endorsements,
    anchors: Sequence[TrustAnchor],
    at: datetime,
    *,
    report_data: ReportData | None = None,
) -> Verified:
    """All checks above on the report ``blob``; ``at`` is an aware time.

    What was given but is not needed is ignored; ``not_checked`` names what could not be checked. Raises FormatError
    (Truncated, Oversized, UnsupportedVersion) where ``blob`` is no report, and with the checks made so far:
    ChainInvalid, UntrustedRoot, OutOfValidity, Revoked, SignatureInvalid, BindingMismatch.
    """
    trail = Trail()
    report = _format(trail, blob)
    verified = _chain(trail, report, endorsements, anchors, at)
    trail.checks = list(verified.checks)
    _signature(trail, report, verified)
    not_checked = [] if verified.crl else ["revocation: no CRL was given"]
    if report_data is None:
        not_checked.append("REPORT_DATA: no expected value was given")
    else:
        _binding(trail, report, report_data)
    return Verified(
        tee=Tee.SNP,
        version=report.version,
        report_data=report.report_data,
        fields=report.fields(verified.product) | ({"csp_id": verified.csp_id} if verified.csp_id else {}),
        root=verified.anchor,
        checks=tuple(trail.checks),
        not_checked=tuple(not_checked),
        revocation=f"as of {verified.crl.this_update:%Y-%m-%dT%H:%M:%SZ}" if verified.crl else "not checked",
        not_after=verified.ends,
    )


def _format(trail: Trail, blob: bytes) -> Report:
    """Check 1."""
    number, name = 1, "report format"
    report = abi.parse(blob)
    if report.signing_key == "NONE":
        trail.fail(number, name, SignatureInvalid, "the report is not signed (SIGNING_KEY is none)")
    if report.signature_algo != abi.ECDSA_P384_SHA384:
        message = f"report signature algorithm {report.signature_algo} is not 1 (ECDSA P-384 with SHA-384)"
        trail.fail(number, name, SignatureInvalid, message)
    trail.passed(number, name, f"version {report.version}")
    return report


def _chain(trail: Trail, report: Report, bag: Endorsements, anchors: Sequence[TrustAnchor], at: datetime) -> Chain:
    """Checks 2 to 8, from memory where the same chain was good for the same kind of report and is still in date."""
    key = (
        bag.certificates,
        bag.crls,
        tuple(anchors),
        report.version,
        report.signing_key,
        report.chip_id,
        report.reported_tcb,
        report.product,
    )
    known = _warm.get(key, at)
    if known is not None:
        return known
    verified = chain.build(report, bag, anchors, at, trail)
    if sum(map(len, bag.certificates + bag.crls)) <= _WARM_BYTES:
        _warm.put(key, verified)
    return verified


def _signature(trail: Trail, report: Report, verified: Chain) -> None:
    """Check 9."""
    number, name = 9, "report signature"
    if not certs.report_signed_by(verified.key, report.signature_der(), report.signed):
        trail.fail(number, name, SignatureInvalid, "report signature does not verify")
    trail.passed(number, name, f"{report.signing_key}, ECDSA P-384 SHA-384")


def _binding(trail: Trail, report: Report, expected: ReportData) -> None:
    """Check 10."""
    number, name = 10, "REPORT_DATA"
    if not hmac.compare_digest(report.report_data, expected.value):
        trail.fail(
            number, name, BindingMismatch, "REPORT_DATA is not the expected one: made for another request or key"
        )
    trail.passed(number, name)
