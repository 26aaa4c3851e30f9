"""A throw-away Intel for tests: one platform, one quote and its collateral, any part of which a test can spoil."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.model import Endorsements, ReportData, TrustAnchor, Verified
from tdx import abi, chain, roots
from tdx.verify import verify

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FMSPC, PCEID = bytes.fromhex("00aabbccddee"), bytes(2)
COMPONENTS = (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCESVN = 11
TDX_SVN = bytes([6, 1, 3, *[0] * 13])
AUTH = bytes(range(32))
EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
ARC = bytes.fromhex("2a864886f84d010d01")


@functools.cache
def key(label: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def sign(signer: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = utils.decode_dss_signature(signer.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(owner: ec.EllipticCurvePrivateKey) -> bytes:
    return owner.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    octets = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
    return bytes([tag]) + (octets if size < 0x80 else bytes([0x80 + len(octets)]) + octets) + content


def member(arcs: Sequence[int], value: bytes) -> bytes:
    return tlv(0x30, tlv(6, ARC + bytes(arcs)) + value)


def number(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def sgx_extension(components: Sequence[int] = COMPONENTS, pcesvn: int = PCESVN, fmspc: bytes = FMSPC) -> bytes:
    tcb = [member((2, index), number(svn)) for index, svn in enumerate(components, 1)]
    tcb += [member((2, 17), number(pcesvn)), member((2, 18), tlv(4, bytes(16)))]
    parts = [
        member((1,), tlv(4, bytes(16))),
        member((2,), tlv(0x30, b"".join(tcb))),
        member((3,), tlv(4, PCEID)),
        member((4,), tlv(4, fmspc)),
        member((5,), tlv(10, b"\0")),
    ]
    return tlv(0x30, b"".join(parts))


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


@dataclass
class Cert:
    """A certificate to be made; ``subject`` and ``issuer`` also name the keys."""

    subject: str
    issuer: str
    authority: bool
    serial: int
    start: datetime = NOW - 365 * DAY
    end: datetime = NOW + 365 * DAY
    signer: str = ""
    constraints: bool | None = None
    digital_signature: bool = True
    digest: hashes.SHA256 | hashes.SHA384 = field(default_factory=hashes.SHA256)
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)

    def der(self) -> bytes:
        authority = self.authority if self.constraints is None else self.constraints
        usage = x509.KeyUsage(
            digital_signature=self.digital_signature and not self.authority,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=self.authority,
            crl_sign=self.authority,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            x509.CertificateBuilder(name(self.issuer), name(self.subject), key(self.subject).public_key(), self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key(self.signer or self.issuer), self.digest).public_bytes(Encoding.DER)


@dataclass
class List:
    """A CRL to be made."""

    issuer: str
    revoked: tuple[int, ...] = ()
    start: datetime = NOW - DAY
    end: datetime | None = NOW + DAY
    signer: str = ""
    extra: list[tuple[x509.ExtensionType, bool]] = field(default_factory=list)

    def der(self) -> bytes:
        builder = x509.CertificateRevocationListBuilder(name(self.issuer), self.start, self.end or NOW)
        builder = builder.add_extension(x509.CRLNumber(1), critical=False)
        for serial in self.revoked:
            entry = x509.RevokedCertificateBuilder(serial, self.start).build()
            builder = builder.add_revoked_certificate(entry)
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key(self.signer or self.issuer), hashes.SHA256()).public_bytes(Encoding.DER)


def level(tcb: Mapping[str, Any], status: str = "UpToDate", *advisories: str) -> dict[str, Any]:
    return {"tcb": tcb, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories)}


def components(svns: Sequence[int]) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def platform_level(status: str = "UpToDate", *advisories: str, **changes: Any) -> dict[str, Any]:
    """``sgx``, ``tdx`` and ``pcesvn`` differ from the platform's own where given."""
    tdx = changes.get("tdx", (TDX_SVN[0], 0, *TDX_SVN[2:]))
    tcb = {
        "sgxtcbcomponents": components(changes.get("sgx", COMPONENTS)),
        "pcesvn": changes.get("pcesvn", PCESVN),
        "tdxtcbcomponents": components(tdx),
    }
    return level(tcb, status, *advisories)


def period() -> dict[str, Any]:
    return {"issueDate": "2026-05-31T00:00:00Z", "nextUpdate": "2026-06-30T00:00:00Z", "tcbEvaluationDataNumber": 20}


def tcb_info() -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    return {
        "id": "TDX",
        "version": 3,
        **period(),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCEID.hex(),
        "tcbType": 0,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {"id": "TDX_01", **module, "tcbLevels": [level({"isvsvn": 6}), level({"isvsvn": 2}, "OutOfDate", "SA-2")]}
        ],
        "tcbLevels": [platform_level(), platform_level("OutOfDate", "SA-1", sgx=(0,) * 16, pcesvn=5, tdx=(0,) * 16)],
    }


def qe_identity() -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        **period(),
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": roots.QE_MRSIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [level({"isvsvn": 4}), level({"isvsvn": 2}, "OutOfDate", "SA-3")],
    }


class World:
    """Everything good as made; spoil it, then ``verify``. ``quote`` and ``endorsements`` are made when asked for."""

    def __init__(self) -> None:
        self.at = NOW
        self.root = Cert("root", "root", authority=True, serial=1)
        self.ca = Cert("ca", "root", authority=True, serial=2)
        self.leaf = Cert("pck", "ca", authority=False, serial=3)
        self.extension: bytes | None = sgx_extension()
        self.signer = Cert(chain.TCB_SIGNER, "root", authority=False, serial=4)
        self.root_crl, self.pck_crl = List("root"), List("ca")
        self.order = [0, 1, 2]
        self.header: dict[str, Any] = {"version": 5}
        self.body: dict[str, Any] = {}
        self.kind: type[abi.Body] = abi.Body15
        self.qe: dict[str, Any] = {}
        self.auth = AUTH
        self.quote_signer, self.qe_signer = "attestation", "pck"
        self.tcb_info, self.qe_identity = tcb_info(), qe_identity()
        self.collateral_signer = chain.TCB_SIGNER
        self.anchors: tuple[TrustAnchor, ...] | None = None
        self.report_data: ReportData | None = None

    def certificates(self) -> list[bytes]:
        leaf = replace(self.leaf, extra=list(self.leaf.extra))
        if self.extension is not None:
            leaf.extra.append((x509.UnrecognizedExtension(EXTENSION, self.extension), False))
        return [leaf.der(), self.ca.der(), self.root.der()]

    def quote(self) -> bytes:
        made = self.certificates()
        header = abi.Header.build(
            **{"att_key_type": 2, "tee_type": 0x81, "qe_vendor_id": abi.INTEL_QE_VENDOR, **self.header}
        )
        svns = {"tee_tcb_svn": TDX_SVN} | ({"tee_tcb_svn_2": TDX_SVN} if self.kind is abi.Body15 else {})
        body = self.kind.build(**{**svns, "report_data": b"r" * 64, **self.body})
        signed = abi.signed_part(header, body)
        attestation_key = point(key("attestation"))
        qe = {
            "attributes": bytes.fromhex("1500000000000000e700000000000000"),
            "mrsigner": roots.QE_MRSIGNER,
            "isvprodid": 2,
            "isvsvn": 5,
            "report_data": hashlib.sha256(attestation_key + AUTH).digest() + bytes(32),
        }
        report = abi.QeReport.build(**{**qe, **self.qe})
        return abi.build_quote(
            signed,
            signature=sign(key(self.quote_signer), signed),
            attestation_key=attestation_key,
            qe_report=report,
            qe_signature=sign(key(self.qe_signer), report.data),
            auth_data=self.auth,
            certificates=b"".join(chain.to_pem(made[index]) for index in self.order),
        )

    def body_of(self, kind: str, content: Mapping[str, Any]) -> bytes:
        inner = json.dumps(content, separators=(",", ":")).encode()
        signature = sign(key(self.collateral_signer), inner).hex()
        return b'{"%s":%s,"signature":"%s"}' % (kind.encode(), inner, signature.encode())

    def endorsements(self) -> Endorsements:
        return Endorsements(
            (self.ca.der(), self.root.der(), self.signer.der()),
            (self.pck_crl.der(), self.root_crl.der()),
            self.body_of("tcbInfo", self.tcb_info),
            self.body_of("enclaveIdentity", self.qe_identity),
        )

    def anchor(self) -> TrustAnchor:
        spki = key("root").public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return TrustAnchor("test root", hashlib.sha256(spki).digest())

    def verify(self, endorsements: Endorsements | None = None, quote: bytes | None = None) -> Verified:
        anchors = (self.anchor(),) if self.anchors is None else self.anchors
        given = self.endorsements() if endorsements is None else endorsements
        return verify(quote or self.quote(), given, anchors, self.at, report_data=self.report_data)
