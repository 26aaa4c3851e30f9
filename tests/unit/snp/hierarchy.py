"""A throwaway AMD hierarchy for tests: real keys and signatures, any part of which a test can spoil."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.model import Endorsements, ReportData, TrustAnchor, Verified
from snp import abi
from snp.abi import Report, ReportV2, ReportV3, ReportV5
from snp.verify import verify
from snp.words import Product, policy_word, tcb_word

NOW = datetime(2026, 6, 1, tzinfo=UTC)
YEAR = timedelta(days=365)
_PARTS = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
_ARCS = {"bootloader": 1, "tee": 2, "snp": 3, "spl_4": 4, "spl_5": 5, "spl_6": 6, "spl_7": 7, "microcode": 8, "fmc": 9}
_CPUID = {Product.MILAN: (0x19, 1), Product.GENOA: (0x19, 0x11), Product.TURIN: (0x1A, 2)}


@functools.cache
def rsa_key(label: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def ec_key(label: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name),
        ]
    )


def amd(arcs: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{arcs}"), value)


def standard(arcs: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(f"2.5.29.{arcs}"), value)


def number(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(content)]) + content


def ia5(text: str) -> bytes:
    return b"\x16" + bytes([len(text)]) + text.encode()


def leaf_extensions(
    product_name: str, spls: Mapping[str, int], *, hwid: bytes = b"", csp_id: str = "", struct_version: int = 0
) -> list[x509.ExtensionType]:
    found: list[x509.ExtensionType] = [amd("1", number(struct_version)), amd("2", ia5(product_name))]
    found += [amd(f"3.{_ARCS[part]}", number(level)) for part, level in spls.items()]
    if hwid:
        found.append(amd("4", hwid))
    if csp_id:
        found.append(amd("5", ia5(csp_id)))
    return found


PROFILE = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
WEAK_PROFILE = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)


@dataclass(frozen=True)
class Cert:
    """What one certificate says; ``key`` and ``signer`` are labels of keys."""

    subject: str
    issuer: str
    key: str
    signer: str
    authority: bool | None
    extensions: Sequence[x509.ExtensionType] = ()
    serial: int = 7
    start: datetime = NOW - YEAR
    end: datetime = NOW + YEAR
    weak: bool = False
    critical: bool = False

    def der(self) -> bytes:
        public = ec_key(self.key).public_key() if self.key.startswith("leaf") else rsa_key(self.key).public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.subject))
            .issuer_name(name(self.issuer))
            .public_key(public)
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
        )
        if self.authority is not None:
            constraints = x509.BasicConstraints(ca=self.authority, path_length=None)
            builder = builder.add_extension(constraints, critical=True)
        for extension in self.extensions:
            builder = builder.add_extension(extension, critical=self.critical)
        digest, pss = (SHA256(), WEAK_PROFILE) if self.weak else (SHA384(), PROFILE)
        return builder.sign(rsa_key(self.signer), digest, rsa_padding=pss).public_bytes(Encoding.DER)


def crl(
    issuer: str = "ARK-Milan",
    signer: str = "ark",
    revoked: Sequence[int] = (),
    start: datetime = NOW - timedelta(days=10),
    end: datetime = NOW + timedelta(days=30),
) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(start).next_update(end)
    builder = builder.add_extension(x509.CRLNumber(4), critical=False)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(
            entry.add_extension(x509.CRLReason(x509.ReasonFlags.superseded), critical=False).build()
        )
    return builder.sign(rsa_key(signer), SHA384(), rsa_padding=PROFILE).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class World:
    """A report and all that belongs to it; ``dataclasses.replace`` it to spoil a part."""

    report: Report
    leaf: Cert
    issuer: Cert
    root: Cert
    crls: tuple[bytes, ...] = ()
    extra: tuple[bytes, ...] = ()

    def signed(self) -> bytes:
        der = ec_key("leaf").sign(self.report.signed, ec.ECDSA(SHA384()))
        return self.report.with_signature(der).data

    def bag(self) -> Endorsements:
        return Endorsements((*self.extra, self.leaf.der(), self.issuer.der(), self.root.der()), self.crls)

    def with_leaf(self, **changes: Any) -> World:
        return replace(self, leaf=replace(self.leaf, **changes))

    def with_issuer(self, **changes: Any) -> World:
        return replace(self, issuer=replace(self.issuer, **changes))

    def with_root(self, **changes: Any) -> World:
        return replace(self, root=replace(self.root, **changes))

    def with_report(self, **changes: Any) -> World:
        return replace(self, report=self.report.replace(**changes))

    def verify(self, at: datetime = NOW, report_data: ReportData | None = None) -> Verified:
        return verify(self.signed(), self.bag(), [anchor()], at, report_data=report_data)


def anchor(label: str = "ark") -> TrustAnchor:
    spki = rsa_key(label).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TrustAnchor("throwaway", hashlib.sha256(spki).digest())


def world(product: Product = Product.MILAN, kind: str = "VCEK", version: int = 5) -> World:
    """A sound world of this product, leaf kind and report version."""
    turin = product is Product.TURIN
    parts = {**_PARTS, "fmc": 1} if turin else dict(_PARTS)
    hwid = bytes(range(1, 9 if turin else 65)) if kind == "VCEK" else b""
    spls = {**parts, **{f"spl_{n}": 0 for n in range(5 if turin else 4, 8)}}
    extensions = leaf_extensions(
        product, spls, hwid=hwid, csp_id="" if hwid else "CN=example", struct_version=int(turin)
    )
    between = f"SEV-{product}" if kind == "VCEK" else f"SEV-VLEK-{product}"
    ark = f"ARK-{product}"
    return World(
        _report(product, kind, version, tcb_word(product, **parts), hwid),
        Cert(f"SEV-{kind}", between, "leaf", "ask", None, extensions, serial=1),
        Cert(between, ark, "ask", "ark", True, serial=0x10001),
        Cert(ark, ark, "ark", "ark", True, serial=0x10000),
    )


def _report(product: Product, kind: str, version: int, tcb: int, hwid: bytes) -> Report:
    values = {
        "policy": policy_word(smt=True),
        "key_info": abi.key_info(kind),
        "report_data": bytes(range(64)),
        "measurement": bytes(48),
        "reported_tcb": tcb,
        "current_tcb": tcb,
        "committed_tcb": tcb,
        "launch_tcb": tcb,
        "chip_id": hwid + bytes(64 - len(hwid)),
    }
    if version == 2:
        return ReportV2.build(**values)
    family, model = _CPUID[product]
    shape = {3: ReportV3, 5: ReportV5}[version]
    return shape.build(**values, cpuid_family=family, cpuid_model=model, cpuid_stepping=1)
