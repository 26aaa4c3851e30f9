"""From a bag of certificates to the key that may have signed a report: checks 2 to 8 of snp.verify.

The bag is untrusted and may hold more than is needed: the best-looking candidates are picked by name and content,
then everything about the picked ones is checked. Source: AMD 57230, sections 2 and 3; RFC 5280.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, TypeVar

from agent.core.errors import (
    ChainInvalid,
    FormatError,
    OutOfValidity,
    Revoked,
    UntrustedRoot,
    VerificationError,
)
from agent.core.model import Check, Endorsements, TrustAnchor
from agent.core.x509 import Certificate, Crl, Signed
from snp import certs
from snp.abi import Report
from snp.certs import LeafValues
from snp.words import Product, product_named, tcb_layout

MAX_OBJECTS = 256
"""Certificates, and CRLs, of a bag that are looked at."""
MAX_CANDIDATES = 8
"""Of one role; each costs a signature check."""

_Parsed = TypeVar("_Parsed")
_INTERMEDIATE = {"VCEK": "SEV-", "VLEK": "SEV-VLEK-"}


class Trail:
    """The checks made so far."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def passed(self, number: int, name: str, detail: str = "") -> None:
        self.checks.append(Check(number, name, ok=True, detail=detail))

    def fail(self, number: int, name: str, error: type[VerificationError], message: str, **extra: str) -> NoReturn:
        """Raise ``error`` with this check as the last one; ``extra`` is hint and code."""
        failed = Check(number, name, ok=False, detail=message)
        raise error(message, checks=(*self.checks, failed), **extra)


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain that passed checks 2 to 8; good only for reports with the same signing key, chip, TCB and product.

    ``csp_id`` is the provider that a VLEK names, "" for a VCEK. ``starts`` and ``ends`` bound the time in which all
    parts used are valid.
    """

    key: certs.EcKey
    csp_id: str
    product: Product
    anchor: TrustAnchor
    crl: Crl | None
    starts: datetime
    ends: datetime
    checks: tuple[Check, ...]


def build(report: Report, bag: Endorsements, anchors: Sequence[TrustAnchor], at: datetime, trail: Trail) -> Chain:
    """Checks 2 to 8. Raises VerificationError and its subclasses, never anything else for hostile input."""
    leaf, issuer, root = _find(report, bag.certificates, anchors, at, trail)
    _signatures(trail, leaf, issuer, root)
    anchor = _trusted(trail, root, anchors)
    product = _roles(trail, report, leaf, issuer, root)
    _validity(trail, at, (root, issuer, leaf))
    crl = _revocation(trail, at, bag.crls, issuer, root)
    key, csp_id = _leaf_matches(trail, report, leaf, product)
    starts = [cert.not_before for cert in (root, issuer, leaf)] + ([crl.this_update] if crl else [])
    ends = [cert.not_after for cert in (root, issuer, leaf)] + ([crl.next_update] if crl else [])
    return Chain(key, csp_id, product, anchor, crl, max(starts), min(ends), tuple(trail.checks))


def _find(
    report: Report, bag: Sequence[bytes], anchors: Sequence[TrustAnchor], at: datetime, trail: Trail
) -> tuple[Certificate, Certificate, Certificate]:
    """Check 2: pick leaf, issuer and root, the likeliest of each."""
    number, name = 2, "certificates present"
    found, unreadable = _parse_all(bag, certs.parse_certificate)
    pins = {anchor.spki_sha256 for anchor in anchors}
    kind = report.signing_key

    def pick(role: str, candidates: Iterable[Certificate], likely: Callable[[Certificate], bool]) -> Certificate:
        some = list(candidates)[:MAX_CANDIDATES]
        if not some:
            note = f", {len(unreadable)} unreadable: {unreadable[0]}" if unreadable else ""
            message = f"no {role} among the {len(bag)} certificates given{note}"
            trail.fail(number, name, ChainInvalid, message, hint=_missing_hint(role))
        return max(some, key=lambda cert: (likely(cert), cert.not_before <= at <= cert.not_after))

    leaf = pick(
        f"{kind} for this report",
        sorted((c for c in found if c.common_name == f"SEV-{kind}"), key=lambda c: bool(_mismatch(report, c))),
        lambda cert: not _mismatch(report, cert),
    )
    issuer = pick(
        f"issuer of the {kind}", (c for c in found if c.subject == leaf.issuer), lambda cert: _signed(leaf, cert)
    )
    root = pick(
        f"root (ARK) above {issuer.common_name}",
        (c for c in found if c.subject == issuer.issuer and c.issuer == c.subject),
        lambda cert: cert.spki_sha256 in pins,
    )
    trail.passed(number, name, f"{leaf.common_name}, {issuer.common_name}, {root.common_name}")
    return leaf, issuer, root


def _signatures(trail: Trail, leaf: Certificate, issuer: Certificate, root: Certificate) -> None:
    """Check 3: root by itself, issuer by root, leaf by issuer."""
    number, name = 3, "chain signatures"
    for child, parent in ((root, root), (issuer, root), (leaf, issuer)):
        if not _signed(child, parent):
            message = f"{child.common_name}: the signature by {parent.common_name} does not verify"
            trail.fail(number, name, ChainInvalid, message)
    trail.passed(number, name, "RSASSA-PSS SHA-384")


def _trusted(trail: Trail, root: Certificate, anchors: Sequence[TrustAnchor]) -> TrustAnchor:
    """Check 4: the root's key is pinned; a genuine anchor wins over an added one with the same key."""
    number, name = 4, "trusted root"
    digest = root.spki_sha256
    found = sorted((a for a in anchors if a.spki_sha256 == digest), key=lambda anchor: not anchor.genuine)
    if not found:
        message = f"root certificate is not a trusted AMD ARK: {root.common_name}, key SHA-256 {digest.hex()}"
        hint = "a root of your own must be named as a trust root, and marks every decision"
        trail.fail(number, name, UntrustedRoot, message, hint=hint)
    trail.passed(number, name, found[0].name if found[0].genuine else f"{found[0].name} (added, not AMD's)")
    return found[0]


def _roles(trail: Trail, report: Report, leaf: Certificate, issuer: Certificate, root: Certificate) -> Product:
    """Check 5: each certificate is what its place demands, and all are of one product, the report's."""
    number, name = 5, "roles and product"
    product = next((p for p in Product if root.common_name == f"ARK-{p}"), None)
    if product is None:
        trail.fail(number, name, ChainInvalid, f"root {root.common_name} is of no product known here")
    if issuer.common_name != _INTERMEDIATE[report.signing_key] + product:
        message = f"{issuer.common_name} does not issue {report.signing_key} certificates of {product}"
        trail.fail(number, name, ChainInvalid, message)
    for cert, authority in ((root, True), (issuer, True), (leaf, False)):
        if _is_ca(cert) is not authority:
            message = f"{cert.common_name} {'is no' if authority else 'claims to be a'} certificate authority"
            trail.fail(number, name, ChainInvalid, message)
    if report.version > 2 and report.product is not product:
        of = report.product or "no product known here"
        trail.fail(number, name, ChainInvalid, f"the report's processor is {of}, the certificates are for {product}")
    trail.passed(number, name, product)
    return product


def _validity(trail: Trail, at: datetime, chain: Iterable[Certificate]) -> None:
    """Check 6: every certificate is valid at ``at``."""
    number, name = 6, "certificates in date"
    for cert in chain:
        if not cert.not_before <= at <= cert.not_after:
            message = (
                f"{cert.common_name} is valid from {cert.not_before:%Y-%m-%d} to {cert.not_after:%Y-%m-%d}, "
                f"not at {at:%Y-%m-%dT%H:%M:%SZ}"
            )
            trail.fail(number, name, OutOfValidity, message, hint="is the clock right?")
    trail.passed(number, name)


def _revocation(trail: Trail, at: datetime, bag: Sequence[bytes], issuer: Certificate, root: Certificate) -> Crl | None:
    """Check 7: where CRLs are given, one is the root's, signed and current; no signed one lists issuer or root.

    CRLs under ECDSA are another vendor's and not looked at.
    """
    number, name = 7, "revocation"
    bag = [der for der in bag if not certs.is_ecdsa_signed(der)]
    if not bag:
        return None
    found, unreadable = _parse_all(bag, certs.parse_crl)
    candidates = [crl for crl in found if crl.issuer == root.subject]
    if not candidates or len(candidates) > MAX_CANDIDATES or len(bag) > MAX_OBJECTS:
        # Not "none given": a damaged CRL, or one lost in a crowd, must not turn the check off.
        note = f", {len(unreadable)} unreadable: {unreadable[0]}" if unreadable else ""
        message = f"of {len(bag)} CRLs given, {len(candidates)} are of {root.common_name}{note}"
        hint = f"give the current CRL of {root.common_name}, or none at all"
        trail.fail(number, name, ChainInvalid, message, code="verify.chain.crl", hint=hint)
    authentic = [crl for crl in candidates if _signed(crl, root)]
    if not authentic:
        message = f"the CRL's signature by {root.common_name} does not verify"
        trail.fail(number, name, ChainInvalid, message, code="verify.chain.crl")
    for crl, cert in ((crl, cert) for crl in authentic for cert in (issuer, root)):
        try:
            when = crl.revoked_at(cert.serial)
        except FormatError as error:
            trail.fail(number, name, ChainInvalid, error.message, code="verify.chain.crl")
        if when:
            message = f"{cert.common_name} (serial 0x{cert.serial:x}) was revoked on {when:%Y-%m-%d}"
            trail.fail(number, name, Revoked, message)
    best = max(authentic, key=lambda crl: (crl.this_update <= at <= crl.next_update, crl.this_update))
    if not best.this_update <= at <= best.next_update:
        message = f"the CRL of {root.common_name} is for {best.this_update:%Y-%m-%d} to {best.next_update:%Y-%m-%d}"
        trail.fail(number, name, OutOfValidity, message, code="verify.validity.crl", hint="fetch the current CRL")
    trail.passed(number, name, f"CRL of {best.this_update:%Y-%m-%dT%H:%M:%SZ}")
    return best


def _leaf_matches(trail: Trail, report: Report, leaf: Certificate, product: Product) -> tuple[certs.EcKey, str]:
    """Check 8: the leaf's extensions name this chip (or provider), this TCB and this product."""
    number, name = 8, "leaf certificate is the report's"
    problem = _mismatch(report, leaf, product)
    if problem:
        trail.fail(number, name, ChainInvalid, problem, code="verify.chain.leaf")
    values = certs.leaf_values(leaf)
    try:
        key = certs.ec_key(leaf)
    except FormatError as error:
        trail.fail(number, name, ChainInvalid, error.message)
    trail.passed(number, name, f"{values.product_name}, {values.csp_id or 'chip ' + values.hwid[:8].hex()}")
    return key, values.csp_id


def _mismatch(report: Report, leaf: Certificate, product: Product | None = None) -> str:
    """Why this leaf can't be the one of this report; "" if it can."""
    try:
        values = certs.leaf_values(leaf)
    except FormatError as error:
        return error.message
    product = product or report.product
    if product and product_named(values.product_name) is not product:
        return f"{leaf.common_name} is for product {values.product_name}, the report's is {product}"
    return _identity_mismatch(report, values, product) or _tcb_mismatch(report, leaf, values, product)


def _identity_mismatch(report: Report, values: LeafValues, product: Product | None) -> str:
    if report.signing_key == "VLEK":
        return "" if values.csp_id else "the VLEK names no cloud provider"
    if not any(report.chip_id):
        return "the host masked CHIP_ID (it is zero), so no VCEK can be told from that of another chip"
    size = 8 if product is Product.TURIN else 64
    if len(values.hwid) != size or values.hwid + bytes(64 - size) != report.chip_id:
        return "the VCEK is for another chip: its hwID is not the report's CHIP_ID"
    return ""


def _tcb_mismatch(report: Report, leaf: Certificate, values: LeafValues, product: Product | None) -> str:
    """Every byte of REPORTED_TCB, reserved ones too; a reserved part that the leaf leaves out counts as zero."""
    layout = {"spl_5": 4, "spl_6": 5, "spl_7": 6, **tcb_layout(product)}
    if product is not Product.TURIN:
        layout.update(spl_4=2, spl_5=3, spl_6=4, spl_7=5)
    if values.spls.keys() - layout.keys():
        return f"{leaf.common_name} has security versions that {product or 'this product'} does not have"
    for part, at in layout.items():
        reported = report.reported_tcb >> 8 * at & 0xFF
        certified = values.spls.get(part, 0 if part.startswith("spl_") else -1)
        if certified != reported:
            return f"{leaf.common_name} is for another TCB: {part} {certified}, the report says {reported}"
    return ""


def _parse_all(bag: Sequence[bytes], parse: Callable[[bytes], _Parsed]) -> tuple[list[_Parsed], list[str]]:
    """What can be read, and why the rest can't."""
    found, unreadable = [], []
    for der in bag[:MAX_OBJECTS]:
        try:
            found.append(parse(der))
        except FormatError as error:
            unreadable.append(error.message)
    return found, unreadable


def _signed(child: Signed, issuer: Certificate) -> bool:
    try:
        return certs.signed_by(child, issuer)
    except FormatError:
        return False


def _is_ca(cert: Certificate) -> bool | None:
    """None where the certificate does not say it readably: good for no role."""
    try:
        return certs.is_authority(cert)
    except FormatError:
        return None


def _missing_hint(role: str) -> str:
    if "report" in role:
        return "take it from the host's certificate table or AMD's key distribution service; each TCB has its own"
    return "AMD's cert_chain file has both CA certificates"
