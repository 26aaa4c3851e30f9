"""X.509 certificates and CRLs as far as all vendors' are alike: one accepted form, exact bytes, no cryptography.

What a signature does not cover (frame, outer algorithm, unused bits) has exactly one accepted spelling, so that no bit
of it can change unnoticed. Form only: whose signature it is, and who may sign what, is the vendors' business.
Source: RFC 5280. Raises FormatError and Oversized only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Self

from agent.core import der
from agent.core.der import Reader
from agent.core.errors import FormatError, Oversized

MAX_CERTIFICATE = 16 * 1024
"""Bytes; genuine ones have under 2 KiB."""
KEY_USAGE, BASIC_CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d13")
DIGITAL_SIGNATURE, CERT_SIGN, CRL_SIGN = 0x80, 0x04, 0x02
"""Bits of the key usage's first byte."""

_VERSION_3 = bytes.fromhex("a003020102")
_COMMON_NAME = bytes.fromhex("550403")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a vendor signs with: AlgorithmIdentifiers (DER) that are accepted; ``name`` says it in errors.

    ``max_crl`` is in bytes.
    """

    name: str
    algorithms: frozenset[bytes]
    max_crl: int


class Extension(NamedTuple):
    """``value`` is the content of the OCTET STRING."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """What every signed object has: exact bytes, the signed part, the signature, the issuer's Name (DER).

    Equality is that of the exact bytes.
    """

    der: bytes
    tbs: bytes = field(compare=False, repr=False)
    signature: bytes = field(compare=False, repr=False)
    issuer: bytes = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Certificate(Signed):
    """``subject`` and ``spki`` are DER; ``extensions`` goes by OID (content bytes).

    No extension is critical but the two that are understood here.
    """

    serial: int = field(compare=False)
    subject: bytes = field(compare=False, repr=False)
    common_name: str = field(compare=False)
    not_before: datetime = field(compare=False)
    not_after: datetime = field(compare=False)
    spki: bytes = field(compare=False, repr=False)
    extensions: Mapping[bytes, Extension] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, data: bytes, profile: Profile) -> Self:
        """A version 3 certificate in DER, signed as ``profile`` says."""
        body, signed_as, signature, tbs = _frame(data, "certificate", MAX_CERTIFICATE)
        if body.element(der.CONTEXT_0) != _VERSION_3:
            raise body.error("not an X.509 version 3 certificate")
        serial = body.integer()
        _require_profile(body, signed_as, profile)
        issuer = body.element(der.SEQUENCE)
        validity = body.inside(der.SEQUENCE)
        not_before, not_after = validity.time(), validity.time()
        validity.finish()
        subject = body.element(der.SEQUENCE)
        spki = body.element(der.SEQUENCE)
        extensions: Mapping[bytes, Extension] = {}
        if body.tag() == der.CONTEXT_3:
            extensions = _extensions(body.inside(der.CONTEXT_3), {KEY_USAGE, BASIC_CONSTRAINTS})
        body.finish()
        return cls(
            der=data,
            tbs=tbs,
            signature=signature,
            issuer=issuer,
            serial=serial,
            subject=subject,
            common_name=common_name(subject),
            not_before=not_before,
            not_after=not_after,
            spki=spki,
            extensions=extensions,
        )

    @property
    def spki_sha256(self) -> bytes:
        return hashlib.sha256(self.spki).digest()

    def authority(self) -> bool:
        """Whether basic constraints are there and say CA."""
        if BASIC_CONSTRAINTS not in self.extensions:
            return False
        whole = Reader(self.extensions[BASIC_CONSTRAINTS].value, "basic constraints")
        inner = whole.inside(der.SEQUENCE)
        whole.finish()
        return inner.tag() == der.BOOLEAN and inner.boolean()

    def key_usage(self) -> int | None:
        """First byte of the key usage's bits; None without this extension."""
        if KEY_USAGE not in self.extensions:
            return None
        whole = Reader(self.extensions[KEY_USAGE].value, "key usage")
        data = whole.content(der.BIT_STRING)
        whole.finish()
        if not data or data[0] > 7 or (data[0] and len(data) == 1):
            raise whole.error("not a BIT STRING")
        return data[1] if len(data) > 1 else 0


@dataclass(frozen=True, slots=True)
class Crl(Signed):
    """``revoked`` is the content of revokedCertificates. Only as good as its signature: see ``revoked_at``."""

    this_update: datetime = field(compare=False)
    next_update: datetime = field(compare=False)
    revoked: bytes = field(compare=False, repr=False)

    @classmethod
    def parse(cls, data: bytes, profile: Profile) -> Self:
        """A version 2 CRL in DER, complete in scope (nothing critical), signed as ``profile`` says."""
        body, signed_as, signature, tbs = _frame(data, "CRL", profile.max_crl)
        if body.integer() != 1:
            raise body.error("not a version 2 CRL")
        _require_profile(body, signed_as, profile)
        issuer = body.element(der.SEQUENCE)
        this_update, next_update = body.time(), body.time()
        revoked = body.content(der.SEQUENCE) if body.tag() == der.SEQUENCE else b""
        _extensions(body.inside(der.CONTEXT_0), set())
        body.finish()
        return cls(data, tbs, signature, issuer, this_update, next_update, revoked)

    def revoked_at(self, serial: int) -> datetime | None:
        """When the certificate with this number was revoked; None if it was not.

        To be asked when the signature held: an INTEGER has one encoding in DER, so a list by an issuer that writes
        DER is only read where the number's bytes stand in it.
        """
        number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
        if number not in self.revoked:
            return None
        for entry in Reader(self.revoked, "CRL").each(der.SEQUENCE):
            listed, when = entry.content(der.INTEGER), entry.time()
            if entry.tag() == der.SEQUENCE:
                entry.skip()  # a reason makes a revoked certificate no better
            if listed == number:
                return when
        return None


def common_name(name: bytes) -> str:
    """The only commonName in a Name (DER), "" if it has none; printable, for it goes into messages."""
    found = []
    rdns = Reader(name, "name").inside(der.SEQUENCE)
    while rdns.tag() != -1:
        rdn = rdns.content(der.SET)
        if _COMMON_NAME not in rdn:
            continue
        for attribute in Reader(rdn, "name").each(der.SEQUENCE):
            if attribute.content(der.OID) == _COMMON_NAME:
                found.append(attribute.text())
            else:
                attribute.skip()
    if len(found) > 1 or not all(map(str.isprintable, found)):
        raise FormatError("name: two common names, or one that is not printable", record="name")
    return found[0] if found else ""


def subject_public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a certificate of whatever kind; nothing else about it is judged."""
    body = Reader(certificate, "certificate").inside(der.SEQUENCE).inside(der.SEQUENCE)
    body.element(der.CONTEXT_0)
    body.integer()
    for _ in ("signature", "issuer", "validity", "subject"):
        body.element(der.SEQUENCE)
    return body.element(der.SEQUENCE)


def signed_under(data: bytes, arc: bytes) -> bool:
    """Whether this is a signed object under an algorithm below ``arc`` (OID content), inside and outside.

    For leaving out what is another vendor's. One changed bit does not make an object look like one: the algorithm
    stands there twice.
    """
    try:
        whole = Reader(data, "object")
        parts = whole.inside(der.SEQUENCE)
        whole.finish()
        body, algorithm = parts.inside(der.SEQUENCE), parts.element(der.SEQUENCE)
        body.integer()
        outer = Reader(algorithm, "object").inside(der.SEQUENCE)
        return body.element(der.SEQUENCE) == algorithm and outer.content(der.OID).startswith(arc)
    except FormatError:
        return False


def _frame(data: bytes, what: str, limit: int) -> tuple[Reader, bytes, bytes, bytes]:
    """Reader over the signed part; outer algorithm, signature and signed part as bytes."""
    if len(data) > limit:
        raise Oversized(f"{what} has {len(data)} bytes, {limit} are allowed", record=what)
    whole = Reader(data, what)
    parts = whole.inside(der.SEQUENCE)
    whole.finish()
    tbs = parts.element(der.SEQUENCE)
    signed_as = parts.element(der.SEQUENCE)
    signature = parts.bits()
    parts.finish()
    return Reader(tbs, what).inside(der.SEQUENCE), signed_as, signature, tbs


def _require_profile(body: Reader, signed_as: bytes, profile: Profile) -> None:
    # The outer copy is not signed, so it must be the inner one byte for byte.
    if body.element(der.SEQUENCE) != signed_as or signed_as not in profile.algorithms:
        raise body.error(f"not signed with {profile.name}, inside and outside")


def _extensions(wrapper: Reader, understood: set[bytes]) -> dict[bytes, Extension]:
    sequence = wrapper.inside(der.SEQUENCE)
    wrapper.finish()
    found: dict[bytes, Extension] = {}
    for extension in sequence.each(der.SEQUENCE):
        oid = extension.content(der.OID)
        critical = extension.tag() == der.BOOLEAN
        if critical and not extension.boolean():
            raise extension.error("an extension spells out the default, which is not critical")
        if oid in found:
            raise extension.error(f"extension {der.dotted(oid)} is there twice")
        if critical and oid not in understood:
            raise extension.error(f"extension {der.dotted(oid)} is critical and not understood")
        found[oid] = Extension(critical, extension.content(der.OCTET_STRING))
    return found
