"""Evidence of either kind, judged in one place: vendor's signature and chain, binding, floor, policy.

The vendors' own checks (snp.verify, tdx.verify) come first and keep their numbers; the floor's and the policy's are
counted on from there. Everything fails closed, and the error carries the checks made so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
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
from agent.core.errors import (
    BindingMismatch,
    FormatError,
    PolicyViolation,
    SignatureInvalid,
    Truncated,
    VerificationError,
)
from agent.core.model import Check, Endorsements, ReportData, Tee, TrustAnchor, Verified
from agent.core.policy import Floor, Policy, evaluate, evaluate_floor
from agent.core.tcbrule import TCB_ORDER, TCB_PARTS, speaks_of
from agent.core.unspoken import unspoken
from agent.core.x509 import subject_public_key_info
from agent.verify.endorsements import certificates_in_pem

MAX_BYTES = 1 << 20
"""Longest evidence that is read; the parsers have closer bounds of their own."""
NO_POLICY = "policy: not applied"
UNSIGNED = "policy: signature"
"""A policy was applied, and nobody checked who wrote it."""

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


_SIGNATURES = {
    Tee.SNP: ("report signature",),
    Tee.TDX: (
        "PCK certificate chain",
        "QE report signature",
        "attestation key bound by QE report",
        "quote signature",
    ),
}
"""The vendors' checks, by name, that are about signatures."""
_TCB_DETAILS = {
    "platform_tcb": ("tcb_level_status", "svn2_level_status"),
    "tdx_module_tcb": ("tdx_module_status", "svn2_module_status"),
    "qe_tcb": ("qe_status",),
}
"""Where a policy's names for the parts of the TCB are found in tdx.verify's detail."""
_EVALUATIONS = ("tcb_evaluation_data_number", "qe_identity_evaluation_data_number")
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


def unpadded(blob: bytes) -> bytes:
    """The evidence as it goes into a bundle: a quote without the zeros it was delivered with. Raises FormatError."""
    return tdx.abi.parse(blob).data if detect(blob) is Tee.TDX else blob


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
    return TrustAnchor(name, _spki_sha256(found[0]), genuine=False)


def verify_evidence(
    blob: bytes,
    endorsements: Endorsements,
    *,
    at: datetime,
    anchors: Sequence[TrustAnchor] | None = None,
    report_data: ReportData | None = None,
    policy: Policy | None = None,
    floor: Floor | None = None,
    update: str = "",
) -> Verified:
    """Evidence that passed everything, with all checks in order. ``anchors`` None means the vendors' roots only.

    ``floor`` None is the full floor. ``update`` says which of Intel's statements the endorsements are, standard or
    early, where the caller knows. Raises FormatError for bytes that are not evidence, VerificationError otherwise.
    """
    verified = verify_vendor(blob, endorsements, at=at, anchors=anchors, report_data=report_data)
    return appraise(verified, policy=policy, floor=floor, update=update)


def verify_vendor(
    blob: bytes,
    endorsements: Endorsements,
    *,
    at: datetime,
    anchors: Sequence[TrustAnchor] | None = None,
    report_data: ReportData | None = None,
) -> Verified:
    """The first half: the vendor's own checks and the binding. Raises as verify_evidence."""
    roots = genuine_anchors() if anchors is None else anchors
    return _VERIFY[detect(blob)](blob, endorsements, roots, at, report_data=report_data)


def appraise(
    verified: Verified, *, policy: Policy | None = None, floor: Floor | None = None, update: str = ""
) -> Verified:
    """The second half: floor and policy over what the first half gave. Raises PolicyViolation."""
    floor = Floor() if floor is None else floor
    fields = appraised_fields(verified, update)
    checks = list(verified.checks)
    checks += evaluate_floor(floor, verified.tee, fields, len(checks) + 1)
    if policy:
        checks += evaluate(policy, fields, len(checks) + 1)
    _require(checks)
    left_out = [*verified.not_checked, *floor.lifted()]
    left_out += _left_out(policy, fields)
    if verified.tcb_status not in ("UpToDate", "n/a") and not _judges_tcb(policy):
        left_out.append(f"TCB status {verified.tcb_status}: no policy's tcb rule judged it")
    return replace(verified, checks=tuple(checks), not_checked=tuple(left_out))


def _left_out(policy: Policy | None, fields: Mapping[str, Any]) -> list[str]:
    if policy is None:
        return [NO_POLICY]
    unsigned = [] if policy.signer else [UNSIGNED]
    return [*unsigned, *unspoken(policy, fields)]


def _judges_tcb(policy: Policy | None) -> bool:
    rule = policy.rules.get("tcb") if policy else None
    return all(speaks_of(rule, part) for part in TCB_PARTS)


def appraised_fields(verified: Verified, update: str = "") -> dict[str, Any]:
    """The fields that a policy sees: the report's own, and for TDX ``tcb``.

    ``tcb`` has the status of each part, and with collateral ``status`` (of the whole), ``advisories`` and
    ``evaluation_data_number``. Of a part that has two statuses (TD 1.5: at launch, and now) the worse one stands, of
    the numbers of TCB info and QE identity the lower. Without collateral every part is "n/a", which no policy accepts.
    """
    fields = dict(verified.fields)
    if verified.tee is Tee.TDX:
        detail = fields.get("tcb_status_detail") or {}
        fields["tcb"] = {part: _worst(detail, names) for part, names in _TCB_DETAILS.items()}
        if numbers := [detail[name] for name in _EVALUATIONS if name in detail]:
            fields["tcb"]["evaluation_data_number"] = min(numbers)
        if detail:
            fields["tcb"] |= {"status": verified.tcb_status, "advisories": list(verified.advisories)}
            fields["tcb"] |= {"update": update} if update else {}
    return fields


def _worst(detail: Mapping[str, Any], names: Sequence[str]) -> str:
    found = [str(detail[name]) for name in names if name in detail]
    unknown = [status for status in found if status not in TCB_ORDER]
    return unknown[0] if unknown else min(found, key=TCB_ORDER.index, default="n/a")


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


def signature_valid(blob: bytes, endorsements: Endorsements, at: datetime) -> bool | None:
    """Whether the evidence is signed as the vendor signs, up to *some* root, whoever's; None where it can't be told.

    Says nothing about trust: a forger's own hierarchy gives True. Raises FormatError.
    """
    tee = detect(blob)
    found = [*endorsements.certificates, *certificates_in_pem(blob, "evidence")]
    roots = [TrustAnchor("any", digest) for certificate in found if (digest := _key_digest(certificate))]
    try:
        checks, refuted = _VERIFY[tee](blob, endorsements, roots, at).checks, False
    except VerificationError as error:
        checks, refuted = error.checks, isinstance(error, SignatureInvalid | BindingMismatch)
    wanted = set(_SIGNATURES[tee])
    if wanted <= {check.name for check in checks if check.ok}:
        return True
    return False if refuted and checks and checks[-1].name in wanted else None


def _key_digest(certificate: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, b"" for what is no certificate."""
    try:
        return _spki_sha256(certificate)
    except FormatError:
        return b""


def _spki_sha256(certificate: bytes) -> bytes:
    return hashlib.sha256(subject_public_key_info(certificate)).digest()
