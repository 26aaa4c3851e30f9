"""Evidence of either kind, judged in one place: vendor's signature and chain, binding, floor, policy.

The vendors' own checks (snp.verify, tdx.verify) come first and keep their numbers; the floor's and the policy's are
counted on from there. Everything fails closed, and the error carries the checks made so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import snp.abi
import snp.roots
import snp.verify
import tdx.abi
import tdx.roots
import tdx.verify
from agent.core.canonical import shown
from agent.core.errors import FormatError, PolicyViolation, Truncated
from agent.core.model import Check, Endorsements, ReportData, Tee, TrustAnchor, Verified
from agent.core.policy import Floor, Policy, evaluate, evaluate_floor, renumbered
from agent.verify.endorsements import certificates_in_pem
from snp import der

MAX_BYTES = 1 << 20
"""Longest evidence that is read; the parsers have closer bounds of their own."""
NO_POLICY = "policy: not applied"

_TDX_TEE_TYPE = 0x81
_HEADER = 8


class _Verify(Protocol):
    def __call__(
        self,
        blob: bytes,
        endorsements: Endorsements,
        anchors: Sequence[TrustAnchor],
        at: datetime,
        *,
        report_data: ReportData | None = None,
    ) -> Verified: ...


_VERIFY: dict[Tee, _Verify] = {Tee.SNP: snp.verify.verify, Tee.TDX: tdx.verify.verify}


def detect(blob: bytes) -> Tee:
    """Which kind of evidence this is, by its first 8 bytes. Raises Truncated, FormatError.

    A report begins with a 32-bit version, a quote with a 16-bit version, a 16-bit key type that is not zero and the
    32-bit TEE type. What the version is, is the parser's business.
    """
    if len(blob) < _HEADER:
        raise Truncated(f"evidence is truncated: {len(blob)} bytes", record="evidence", offset=len(blob))
    key_type = int.from_bytes(blob[2:4], "little")
    tee_type = int.from_bytes(blob[4:8], "little")
    if key_type == 0:
        return Tee.SNP
    if tee_type == _TDX_TEE_TYPE:
        return Tee.TDX
    raise FormatError(
        "neither an SEV-SNP report nor a TDX quote",
        record="evidence",
        offset=0,
        got=blob[:_HEADER].hex(),
        hint="the raw report (outblob) or quote is expected, not its base64 or hex",
    )


def parse_fields(blob: bytes) -> tuple[Tee, int, dict[str, Any]]:
    """Kind, version and named values, nothing of it verified. Raises FormatError."""
    tee = detect(blob)
    fields = snp.abi.parse(blob).fields() if tee is Tee.SNP else tdx.abi.parse(blob).fields()
    version = fields["version"] if tee is Tee.SNP else fields["header"]["version"]
    return tee, int(version), fields


def genuine_anchors() -> tuple[TrustAnchor, ...]:
    """The vendors' production roots."""
    return (*snp.roots.GENUINE, *tdx.roots.GENUINE)


def anchor_from_pem(pem: bytes, name: str) -> TrustAnchor:
    """A root that somebody adds: decisions made under it are marked. Raises FormatError.

    ``pem`` holds exactly one certificate; the anchor is the SHA-256 of its SubjectPublicKeyInfo.
    """
    found = certificates_in_pem(pem, name)
    if len(found) != 1:
        raise FormatError(f"{shown(name)}: one PEM certificate is expected, {len(found)} are there", record="root")
    body = der.Reader(found[0], "root certificate").inside(der.SEQUENCE).inside(der.SEQUENCE)
    body.element(der.CONTEXT_0)
    body.integer()
    for _ in ("signature", "issuer", "validity", "subject"):
        body.element(der.SEQUENCE)
    return TrustAnchor(name, hashlib.sha256(body.element(der.SEQUENCE)).digest(), genuine=False)


def verify_evidence(
    blob: bytes,
    endorsements: Endorsements,
    *,
    at: datetime,
    anchors: Sequence[TrustAnchor] | None = None,
    report_data: ReportData | None = None,
    policy: Policy | None = None,
    floor: Floor | None = None,
) -> Verified:
    """Evidence that passed everything, with all checks in order. ``anchors`` None means the vendors' roots only.

    ``floor`` None is the full floor. Raises FormatError for bytes that are not evidence, VerificationError otherwise.
    """
    floor = Floor() if floor is None else floor
    tee = detect(blob)
    verified = _VERIFY[tee](
        blob, endorsements, genuine_anchors() if anchors is None else anchors, at, report_data=report_data
    )
    fields = appraised_fields(verified)
    checks = list(verified.checks)
    checks += renumbered(evaluate_floor(floor, tee, fields), len(checks) + 1)
    if policy:
        checks += renumbered(evaluate(policy, fields), len(checks) + 1)
    _require(checks)
    left_out = [*verified.not_checked, *floor.lifted()]
    if report_data is None:
        left_out.append("REPORT_DATA: not compared")
    if not policy:
        left_out.append(NO_POLICY)
    return replace(verified, checks=tuple(checks), not_checked=tuple(dict.fromkeys(left_out)))


def appraised_fields(verified: Verified) -> dict[str, Any]:
    """The fields that a policy sees: the report's own, and for TDX what its collateral says of the TCB.

    Where the verifier gives one status for the whole, it is the worst of the parts and stands for each.
    """
    fields = dict(verified.fields)
    if verified.tee is Tee.TDX and "tcb" not in fields:
        fields["tcb"] = dict.fromkeys(("platform_tcb", "tdx_module_tcb", "qe_tcb"), verified.tcb_status)
    return fields


def _require(checks: Sequence[Check]) -> None:
    failed = [index for index, check in enumerate(checks) if not check.ok]
    if not failed:
        return
    first = checks[failed[0]]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    by_floor = first.name.startswith("floor: ")
    name = first.name.removeprefix("floor: ")
    raise PolicyViolation(
        f"{first.name}: {first.detail}{more}",
        checks=checks[: failed[0] + 1],
        hint=f"lifted only by name: --allow {name}" if by_floor else "",
        code="verify.policy.floor" if by_floor else "",
    )
