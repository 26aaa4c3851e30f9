"""AMD's certificates and CRLs: strict parsing, the one signature profile, the extensions of VCEK and VLEK.

Sources: RFC 5280; AMD 57230, VCEK Certificate and KDS Interface Specification, section 3 (profile and extensions).
The profile is fixed here, never taken from the certificate: RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt 48 bytes.
Parsing decides form only; ``signed_by`` answers for one signature; snp.chain puts them together.
The only module here that uses the cryptography package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core.errors import FormatError, Oversized
from snp import der as asn1

MAX_SIZE = 16 * 1024
"""Bytes of a certificate; genuine ones have under 2 KiB."""
MAX_CRL_SIZE = 1024 * 1024

EcKey = ec.EllipticCurvePublicKey

_PSS = bytes.fromhex(
    "06092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d0609608648"
    "0165030402020500a203020130"
)
_TRAILER = bytes.fromhex("a303020101")
# AMD writes the profile with and without the (default) trailer field; both mean the same, nothing else is accepted.
_ALGORITHMS = (b"\x30\x41" + _PSS, b"\x30\x46" + _PSS.replace(b"\x30\x34", b"\x30\x39", 1) + _TRAILER)

_P384_SPKI = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")

_ECDSA = ec.ECDSA(SHA384())
_COMMON_NAME = bytes.fromhex("550403")
_KEY_USAGE, _BASIC_CONSTRAINTS = bytes.fromhex("551d0f"), bytes.fromhex("551d13")
_UNDERSTOOD = frozenset({_KEY_USAGE, _BASIC_CONSTRAINTS})
_CERT_SIGN = 0x04

_AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_STRUCT_VERSION, _PRODUCT_NAME, _HWID, _CSP_ID = (_AMD + bytes([arc]) for arc in (1, 2, 4, 5))
_SPL_ARCS = {"bootloader": 1, "tee": 2, "snp": 3, "spl_4": 4, "spl_5": 5, "spl_6": 6, "spl_7": 7, "microcode": 8}
_SPLS = {name: _AMD + bytes([3, arc]) for name, arc in {**_SPL_ARCS, "fmc": 9}.items()}


@dataclass(frozen=True, slots=True)
class Signed:
    """What every signed object has: exact bytes, the signed part, the signature, the issuer's Name (DER)."""

    der: bytes
    tbs: bytes
    signature: bytes
    issuer: bytes


@dataclass(frozen=True, slots=True)
class Certificate(Signed):
    """``extensions`` maps OIDs (content bytes) to values (content of the OCTET STRING)."""

    serial: int
    subject: bytes
    common_name: str
    not_before: datetime
    not_after: datetime
    spki: bytes
    extensions: Mapping[bytes, bytes]

    def spki_sha256(self) -> bytes:
        return hashlib.sha256(self.spki).digest()

    def is_ca(self) -> bool:
        """Basic constraints say CA, and key usage, where present, allows to sign certificates."""
        value = self.extensions.get(_BASIC_CONSTRAINTS)
        if value is None:
            return False
        inner = asn1.Reader(value, "basic constraints").inside(asn1.SEQUENCE)
        authority = inner.tag() == asn1.BOOLEAN and inner.boolean()
        usage = self.extensions.get(_KEY_USAGE)
        return authority and (usage is None or bool(_key_usage(usage) & _CERT_SIGN))


@dataclass(frozen=True, slots=True)
class Crl(Signed):
    """``revoked`` maps serial numbers to the time of revocation."""

    this_update: datetime
    next_update: datetime
    revoked: Mapping[int, datetime]


@dataclass(frozen=True, slots=True)
class LeafValues:
    """The extensions of a VCEK (``hwid``: 64 bytes, 8 for Turin) or VLEK (``csp_id``); the other one is empty.

    ``spls`` are security patch levels by the name of their part in TCB_VERSION; ``spl_4`` to ``spl_7`` are reserved.
    """

    struct_version: int
    product_name: str
    spls: Mapping[str, int]
    hwid: bytes
    csp_id: str


def parse_certificate(data: bytes) -> Certificate:
    """An X.509 v3 certificate in DER, signed with AMD's profile. Raises FormatError, Oversized."""
    body, signed_as, signature, tbs = _outer(data, "certificate", MAX_SIZE)
    if body.inside(asn1.CONTEXT_0).integer() != 2:
        raise body.error("not an X.509 version 3 certificate")
    serial = body.integer()
    _require_profile(body, signed_as)
    issuer = body.element(asn1.SEQUENCE)
    validity = body.inside(asn1.SEQUENCE)
    not_before, not_after = validity.time(), validity.time()
    validity.finish()
    subject = body.element(asn1.SEQUENCE)
    spki = body.element(asn1.SEQUENCE)
    extensions = _extensions(body.inside(asn1.CONTEXT_3)) if body.tag() == asn1.CONTEXT_3 else {}
    body.finish()
    return Certificate(
        der=data,
        tbs=tbs,
        signature=signature,
        issuer=issuer,
        serial=serial,
        subject=subject,
        common_name=_common_name(subject),
        not_before=not_before,
        not_after=not_after,
        spki=spki,
        extensions=extensions,
    )


def parse_crl(data: bytes) -> Crl:
    """An X.509 v2 CRL in DER, complete (not a delta), signed with AMD's profile. Raises FormatError, Oversized."""
    body, signed_as, signature, tbs = _outer(data, "CRL", MAX_CRL_SIZE)
    if body.integer() != 1:
        raise body.error("not a version 2 CRL")
    _require_profile(body, signed_as)
    issuer = body.element(asn1.SEQUENCE)
    this_update, next_update = body.time(), body.time()
    revoked = _revoked(body.inside(asn1.SEQUENCE)) if body.tag() == asn1.SEQUENCE else {}
    if body.tag() == asn1.CONTEXT_0:
        _extensions(body.inside(asn1.CONTEXT_0))
    body.finish()
    return Crl(data, tbs, signature, issuer, this_update, next_update, revoked)


def leaf_values(leaf: Certificate) -> LeafValues:
    """AMD's extensions. Raises FormatError: one is missing or of another type, or hwID and CSP id are both there."""
    found = leaf.extensions
    spls = {name: _number(found[oid], name) for name, oid in _SPLS.items() if oid in found}
    hwid, csp_id = found.get(_HWID, b""), found.get(_CSP_ID, b"")
    if bool(hwid) == bool(csp_id) or _STRUCT_VERSION not in found or _PRODUCT_NAME not in found:
        raise FormatError(
            f"{leaf.common_name}: AMD's extensions are incomplete", record="certificate", hint="is it a VCEK or VLEK?"
        )
    return LeafValues(
        _number(found[_STRUCT_VERSION], "structVersion"),
        _ia5(found[_PRODUCT_NAME], "productName"),
        spls,
        hwid,
        _ia5(csp_id, "cspID") if csp_id else "",
    )


def signed_by(child: Signed, issuer: Certificate) -> bool:
    """Whether ``issuer``'s key signed ``child`` with AMD's profile. Raises FormatError for a key that is not RSA."""
    try:
        pss = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
        _rsa_key(issuer).verify(child.signature, child.tbs, pss, SHA384())
    except InvalidSignature:
        return False
    return True


def ec_key(leaf: Certificate) -> EcKey:
    """The P-384 key of a VCEK or VLEK. Raises FormatError."""
    if len(leaf.spki) != 120 or not leaf.spki.startswith(_P384_SPKI):
        raise FormatError(f"{leaf.common_name}: the key is not an uncompressed P-384 point", record="certificate")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), leaf.spki[23:])
    except ValueError:
        raise FormatError(f"{leaf.common_name}: the key is not a point of P-384", record="certificate") from None


def report_signed_by(key: EcKey, signature: bytes, data: bytes) -> bool:
    """Whether ``key`` made this ECDSA signature (DER) with SHA-384 over ``data``."""
    try:
        key.verify(signature, data, _ECDSA)
    except InvalidSignature:
        return False
    return True


def _rsa_key(issuer: Certificate) -> rsa.RSAPublicKey:
    try:
        key = load_der_public_key(issuer.spki)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or not 2048 <= key.key_size <= 8192 or key.public_numbers().e != 65537:
        raise FormatError(f"{issuer.common_name}: not an RSA key of 2048 to 8192 bits", record="certificate")
    return key


def _outer(data: bytes, what: str, limit: int) -> tuple[asn1.Reader, bytes, bytes, bytes]:
    """Reader over the signed part; outer algorithm, signature and signed part as bytes."""
    if len(data) > limit:
        raise Oversized(f"{what} has {len(data)} bytes, {limit} are allowed", record=what)
    whole = asn1.Reader(data, what)
    parts = whole.inside(asn1.SEQUENCE)
    whole.finish()
    tbs = parts.element(asn1.SEQUENCE)
    signed_as = parts.element(asn1.SEQUENCE)
    signature = parts.bits()
    parts.finish()
    return asn1.Reader(tbs, what).inside(asn1.SEQUENCE), signed_as, signature, tbs


def _require_profile(body: asn1.Reader, signed_as: bytes) -> None:
    # The outer copy is not signed, so it must be the inner one byte for byte.
    if body.element(asn1.SEQUENCE) != signed_as or signed_as not in _ALGORITHMS:
        raise body.error("not signed with RSASSA-PSS, SHA-384, MGF1-SHA-384 and 48 bytes of salt, inside and outside")


def _extensions(wrapper: asn1.Reader) -> dict[bytes, bytes]:
    sequence = wrapper.inside(asn1.SEQUENCE)
    wrapper.finish()
    found: dict[bytes, bytes] = {}
    while sequence.tag() != -1:
        extension = sequence.inside(asn1.SEQUENCE)
        oid = extension.content(asn1.OID)
        critical = extension.tag() == asn1.BOOLEAN and extension.boolean()
        value = extension.content(asn1.OCTET_STRING)
        extension.finish()
        if oid in found or (critical and oid not in _UNDERSTOOD):
            raise sequence.error(f"extension {oid.hex()} is there twice, or critical and unknown")
        found[oid] = value
    return found


def _revoked(entries: asn1.Reader) -> dict[int, datetime]:
    found: dict[int, datetime] = {}
    while entries.tag() != -1:
        entry = entries.inside(asn1.SEQUENCE)
        serial = entry.integer()
        found[serial] = entry.time()
        if entry.tag() == asn1.SEQUENCE:
            entry.element(asn1.SEQUENCE)  # a reason makes a revoked certificate no better
        entry.finish()
    return found


def _common_name(name: bytes) -> str:
    """The only commonName in a Name, "" if it has none. Raises FormatError for two."""
    found = []
    rdns = asn1.Reader(name, "name").inside(asn1.SEQUENCE)
    while rdns.tag() != -1:
        rdn = rdns.inside(asn1.SET)
        while rdn.tag() != -1:
            attribute = rdn.inside(asn1.SEQUENCE)
            if attribute.content(asn1.OID) == _COMMON_NAME:
                found.append(attribute.text())
    if len(found) > 1:
        raise rdns.error("two common names")
    return found[0] if found else ""


def _key_usage(value: bytes) -> int:
    """First byte of the KeyUsage bits."""
    data = asn1.Reader(value, "key usage").content(asn1.BIT_STRING)
    if len(data) < 2 or data[0] > 7:
        raise FormatError("key usage is not a BIT STRING with content", record="certificate")
    return data[1]


def _number(value: bytes, name: str) -> int:
    reader = asn1.Reader(value, name)
    number = reader.integer()
    reader.finish()
    if number > 0xFF:
        raise reader.error("more than one byte")
    return number


def _ia5(value: bytes, name: str) -> str:
    reader = asn1.Reader(value, name)
    if reader.tag() != asn1.IA5_STRING:
        raise reader.error("not an IA5String")
    text = reader.text()
    reader.finish()
    return text
