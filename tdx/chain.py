"""Who is believed: the PCK chain in a quote up to an anchor, Intel's TCB signers, and which CRLs judge them.

Nothing here looks at a clock; dates are compared by tdx.verify, so that what is decided here can be remembered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.core.errors import ChainInvalid, FormatError, UntrustedRoot
from agent.core.model import TrustAnchor
from agent.core.x509 import common_name
from tdx import pck
from tdx.certs import Certificate, Crl, is_rsa_signed, load_certificate, load_crl

T = TypeVar("T")
TCB_SIGNER = "Intel SGX TCB Signing"
MAX_CANDIDATES = 8
"""Certificates or CRLs of one issuer that we are ready to try."""
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n?")


@dataclass(frozen=True, slots=True)
class PckChain:
    """A chain that verified up to ``anchor``, and the platform that its leaf speaks of."""

    leaf: Certificate
    intermediate: Certificate
    root: Certificate
    anchor: TrustAnchor
    platform: pck.Platform

    def __iter__(self) -> Iterator[Certificate]:
        return iter((self.leaf, self.intermediate, self.root))

    def fields(self) -> dict[str, Any]:
        """What the PCK certificate says, under the names of docs/evidence.md; JSON-able."""
        platform = self.platform.fields()
        return {
            "fmspc": platform["fmspc"],
            "pck": {
                "serial": hex(self.leaf.serial),
                "issuer_cn": common_name(self.leaf.issuer),
                "not_before": f"{self.leaf.not_before:%Y-%m-%dT%H:%M:%SZ}",
                "not_after": f"{self.leaf.not_after:%Y-%m-%dT%H:%M:%SZ}",
                "sha256": hashlib.sha256(self.leaf.der).hexdigest(),
                **platform,
            },
        }


def trusted_chain(pem: bytes, anchors: Sequence[TrustAnchor]) -> PckChain:
    """The PCK chain of a quote up to one of ``anchors``. Raises ChainInvalid, UntrustedRoot."""
    ders = split_pem(pem)
    if len(ders) != 3:
        raise ChainInvalid(f"PCK certificate chain has {len(ders)} certificates, 3 are required")
    titles = ("PCK certificate", "certificate of the PCK authority", "root certificate")
    leaf, intermediate, root = (load_certificate(der, title) for der, title in zip(ders, titles, strict=True))
    links = ((leaf, intermediate), (intermediate, root), (root, root))
    if any(certificate.issuer != issuer.subject for certificate, issuer in links):
        raise ChainInvalid("PCK certificate chain is not in leaf, intermediate, root order")
    anchor = _anchor(root, anchors)
    for certificate, issuer in reversed(links):
        certificate.require_issued_by(issuer)
    for certificate, authority in ((root, True), (intermediate, True), (leaf, False)):
        certificate.require_role(authority=authority)
    return PckChain(leaf, intermediate, root, anchor, _platform(leaf))


def _platform(leaf: Certificate) -> pck.Platform:
    if pck.SGX_EXTENSION not in leaf.extensions:
        raise ChainInvalid("PCK certificate has no SGX extension: it does not say which platform it is for")
    try:
        return pck.parse_extension(leaf.extensions[pck.SGX_EXTENSION].value)
    except FormatError as error:
        raise ChainInvalid(f"PCK certificate: {error}") from error


def _anchor(root: Certificate, anchors: Iterable[TrustAnchor]) -> TrustAnchor:
    pin = root.spki_sha256
    found = [anchor for anchor in anchors if anchor.spki_sha256 == pin]
    if found:
        # A genuine anchor wins over an added one with the same key.
        return max(found, key=lambda anchor: anchor.genuine)
    raise UntrustedRoot(
        f"root certificate {root} is not a trusted root: the SHA-256 of its key is {pin.hex()}",
        hint="if you trust it, add this root by name; every decision under it will be marked",
    )


def split_pem(data: bytes) -> tuple[bytes, ...]:
    """DER of a PEM chain in its one accepted form: 64 columns, LF, at most one NUL at the end. Raises ChainInvalid."""
    text = data[:-1] if data.endswith(b"\0") else data
    try:
        found = tuple(base64.b64decode(match[1]) for match in _PEM.finditer(text))
    except binascii.Error as error:
        raise ChainInvalid("PCK certificate chain is not PEM") from error
    if b"".join(map(to_pem, found)) not in {text, text + b"\n"}:
        raise ChainInvalid("PCK certificate chain is not PEM in its canonical form")
    return found


def to_pem(der: bytes) -> bytes:
    """The accepted form of one certificate."""
    body = base64.b64encode(der)
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def tcb_signers(certificates: Iterable[bytes], root: Certificate) -> tuple[Certificate, ...]:
    """The TCB Signing certificates among ``certificates`` that ``root`` issued; others are ignored.

    Intel issues them more than once for a key. Raises ChainInvalid when there is none, or none that holds.
    """
    wanted = TCB_SIGNER.encode()
    candidates = [der for der in dict.fromkeys(certificates) if wanted in der]
    problem = ChainInvalid(f'no certificate "{TCB_SIGNER}" in the endorsements')
    found = []
    for der in _few(candidates, TCB_SIGNER):
        try:
            found.append(_tcb_signer(der, root))
        except ChainInvalid as error:
            problem = error
    if not found:
        raise problem
    return tuple(found)


def _tcb_signer(der: bytes, root: Certificate) -> Certificate:
    certificate = load_certificate(der, "certificate of the TCB signer")
    certificate.require_issued_by(root)
    certificate.require_role(authority=False)
    if certificate.common_name != TCB_SIGNER:
        raise ChainInvalid(f'{certificate} is not "{TCB_SIGNER}"')
    return certificate


def crls_of(issuers: Sequence[Certificate], crls: Iterable[bytes]) -> tuple[tuple[Crl, ...], ...]:
    """The CRLs of each of ``issuers`` among ``crls``; empty when the set has no CRL that could be Intel's.

    A set that has one must have one of each issuer: otherwise a damaged CRL would pass for an absent one. CRLs under
    RSA are another vendor's and not looked at. Raises ChainInvalid.
    """
    ours = [der for der in dict.fromkeys(crls) if not is_rsa_signed(der)]
    if not ours:
        return ()
    loaded, problem = [], None
    for der in ours:
        try:
            loaded.append(load_crl(der))
        except ChainInvalid as error:
            problem = error
    return tuple(_crls_of(issuer, loaded, problem) for issuer in issuers)


def _crls_of(issuer: Certificate, loaded: list[Crl], problem: ChainInvalid | None) -> tuple[Crl, ...]:
    found = []
    for crl in _few([crl for crl in loaded if crl.issuer == issuer.subject], "CRL"):
        try:
            crl.require_issued_by(issuer)
        except ChainInvalid as error:
            problem = error
        else:
            found.append(crl)
    if not found:
        raise problem or ChainInvalid(f"the endorsements have CRLs, but none of {issuer}")
    return tuple(found)


def _few(candidates: list[T], what: str) -> list[T]:
    if len(candidates) > MAX_CANDIDATES:
        raise ChainInvalid(f"{len(candidates)} candidates for one {what}: {MAX_CANDIDATES} are tried at the most")
    return candidates
