"""AMD's certificates and CRLs: the one signature profile, the extensions of VCEK and VLEK.

Sources: RFC 5280; AMD 57230, VCEK Certificate and KDS Interface Specification, section 3 (profile and extensions).
The profile is fixed here, never taken from the certificate: RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt 48 bytes.
Parsing decides form only; ``signed_by`` answers for one signature; snp.chain puts them together.
The only module here that uses the cryptography package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core.der import IA5_STRING, Reader
from agent.core.errors import FormatError
from agent.core.x509 import CERT_SIGN, Certificate, Crl, Profile, Signed, signed_under

EcKey = ec.EllipticCurvePublicKey

_PSS = bytes.fromhex(
    "06092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d0609608648"
    "0165030402020500a203020130"
)
_TRAILER = bytes.fromhex("a303020101")
# AMD writes the profile with and without the (default) trailer field; both mean the same, nothing else is accepted.
_ALGORITHMS = (b"\x30\x41" + _PSS, b"\x30\x46" + _PSS.replace(b"\x30\x34", b"\x30\x39", 1) + _TRAILER)
PROFILE = Profile("RSASSA-PSS, SHA-384, MGF1-SHA-384 and 48 bytes of salt", frozenset(_ALGORITHMS), max_crl=1024 * 1024)

_ECDSA_ARC = bytes.fromhex("2a8648ce3d04")
_P384_SPKI = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")

_ECDSA = ec.ECDSA(SHA384())

_AMD = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_STRUCT_VERSION, _PRODUCT_NAME, _HWID, _CSP_ID = (_AMD + bytes([arc]) for arc in (1, 2, 4, 5))
_SPL_ARCS = {"bootloader": 1, "tee": 2, "snp": 3, "spl_4": 4, "spl_5": 5, "spl_6": 6, "spl_7": 7, "microcode": 8}
_SPLS = {name: _AMD + bytes([3, arc]) for name, arc in {**_SPL_ARCS, "fmc": 9}.items()}


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
    """Raises FormatError, Oversized."""
    return Certificate.parse(data, PROFILE)


def parse_crl(data: bytes) -> Crl:
    """Raises FormatError, Oversized."""
    return Crl.parse(data, PROFILE)


def is_ecdsa_signed(der: bytes) -> bool:
    """Whether this is a CRL under an ECDSA algorithm, inside and outside: another vendor's, not ours to judge."""
    return signed_under(der, _ECDSA_ARC)


def is_authority(certificate: Certificate) -> bool:
    """Basic constraints say CA, and key usage, where present, allows to sign certificates. Raises FormatError."""
    usage = certificate.key_usage()
    return certificate.authority() and (usage is None or bool(usage & CERT_SIGN))


def leaf_values(leaf: Certificate) -> LeafValues:
    """AMD's extensions. Raises FormatError: one is missing or of another type, or hwID and CSP id are both there."""
    found = {oid: extension.value for oid, extension in leaf.extensions.items()}
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


def _number(value: bytes, name: str) -> int:
    reader = Reader(value, name)
    number = reader.integer()
    reader.finish()
    if number > 0xFF:
        raise reader.error("more than one byte")
    return number


def _ia5(value: bytes, name: str) -> str:
    reader = Reader(value, name)
    if reader.tag() != IA5_STRING:
        raise reader.error("not an IA5String")
    text = reader.text()
    reader.finish()
    return text
