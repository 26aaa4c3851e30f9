"""A throw-away AMD key hierarchy: ARK, ASK or ASVK (RSA-4096), VCEK or VLEK (P-384), the ARK's CRL.

Form as AMD's own: VCEK Certificate and KDS Interface Specification (57230), tables 7 to 9: RSASSA-PSS with SHA-384
and a 48-byte salt throughout, the leaf with serial number 0 and AMD's extensions. Only the names say who made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from sim import der
from sim.keys import (
    Period,
    State,
    authority_key,
    collateral_period,
    distribution_point,
    name,
    root_period,
    subject_key,
    usage,
)
from snp.words import Product, tcb_parts

_UNIT = "throw-away, trusted by nobody"
_ARC = "1.3.6.1.4.1.3704.1"
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_VERSION_3 = der.tlv(0xA0, der.integer(2))
_PRODUCT_NAMES = {Product.MILAN: "Milan-B0", Product.GENOA: "Genoa", Product.TURIN: "Turin"}


@dataclass(frozen=True)
class Hierarchy:
    """ARK of one product and what issues its leaves, with their keys; ``ask`` is the ASVK where ``kind`` is VLEK."""

    product: Product
    ark: x509.Certificate
    ask: x509.Certificate
    ark_key: rsa.RSAPrivateKey
    ask_key: rsa.RSAPrivateKey
    kind: str = "VCEK"

    def crl(self, now: datetime, revoked: Sequence[int] = ()) -> x509.CertificateRevocationList:
        """The ARK's CRL; ``revoked`` are serial numbers (the ASK's, for example)."""
        period = collateral_period(now)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.ark.subject)
            .last_update(period.start)
            .next_update(period.end)
            .add_extension(authority_key(self.ark_key), critical=False)
            .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(period.start).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.ark_key, hashes.SHA384(), rsa_padding=_PSS)

    def vcek(self, key: ec.EllipticCurvePublicKey, chip_id: bytes, tcb: int, now: datetime) -> bytes:
        """The chip's certificate (DER) at TCB word ``tcb``. ``chip_id`` is the report's field (64 bytes).

        DER, for cryptography's own parser warns about serial number 0 and means to refuse it.
        """
        # The hardware id is bare octets, not wrapped in a DER type; Turin's has 8 of CHIP_ID's 64 bytes.
        turin = self.product is Product.TURIN
        return self._leaf(key, tcb, now, ("4", chip_id[:8] if turin else chip_id))

    def vlek(self, key: ec.EllipticCurvePublicKey, csp_id: str, tcb: int, now: datetime) -> bytes:
        """A provider's certificate (DER) at TCB word ``tcb``: no chip, ``csp_id`` says whose it is."""
        return self._leaf(key, tcb, now, ("5", der.ia5(csp_id)))

    def _leaf(self, key: ec.EllipticCurvePublicKey, tcb: int, now: datetime, identity: tuple[str, bytes]) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(f"SEV-{self.kind}", _UNIT))
            .issuer_name(self.ask.subject)
            .public_key(key)
            .serial_number(1)
            .not_valid_before(collateral_period(now).start)
            .not_valid_after(self.ask.not_valid_after_utc)
        )
        for number, value in [*_leaf_extensions(self.product, self.kind, tcb), identity]:
            oid = x509.ObjectIdentifier(f"{_ARC}.{number}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return self._with_serial_zero(builder.sign(self.ask_key, hashes.SHA384(), rsa_padding=_PSS))

    def _with_serial_zero(self, certificate: x509.Certificate) -> bytes:
        """Genuine leaves have serial number 0, which the certificate builder refuses: change one byte, sign again."""
        before, after = (_VERSION_3 + der.integer(serial) for serial in (1, 0))
        head, _, rest = certificate.tbs_certificate_bytes.partition(before)
        algorithm = rest[: 2 + rest[1]]
        tbs = head + after + rest
        return der.sequence(tbs, algorithm, der.bits(self.ask_key.sign(tbs, _PSS, hashes.SHA384())))


def hierarchy(state: State, product: Product, now: datetime, kind: str = "VCEK") -> Hierarchy:
    """The product's ARK and the issuer of ``kind`` from ``state``, made there first (call under state.locked())."""
    prefix = f"amd-{product.lower()}"
    issuer, between = ("ask", f"SEV-{product}") if kind == "VCEK" else ("asvk", f"SEV-VLEK-{product}")
    ark_key, ask_key = state.rsa_key(f"{prefix}-ark"), state.rsa_key(f"{prefix}-{issuer}")
    paths = {which: f"{which.lower()}/v1/{product}/crl" for which in ("VCEK", "VLEK")}

    def make_ark() -> x509.Certificate:
        return (
            _authority(f"ARK-{product}", f"ARK-{product}", ark_key.public_key(), root_period(now))
            .add_extension(usage(signs_certificates=True, signs_crls=True), critical=True)
            .add_extension(subject_key(ark_key), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(distribution_point(paths["VCEK"]), critical=False)
            .sign(ark_key, hashes.SHA384(), rsa_padding=_PSS)
        )

    ark = state.certificate(f"{prefix}-ark", make_ark)

    def make_ask() -> x509.Certificate:
        period = Period(ark.not_valid_before_utc, ark.not_valid_after_utc)
        return (
            _authority(between, f"ARK-{product}", ask_key.public_key(), period)
            .add_extension(subject_key(ask_key), critical=False)
            .add_extension(authority_key(ark_key), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(signs_certificates=True), critical=True)
            .add_extension(distribution_point(paths[kind]), critical=False)
            .sign(ark_key, hashes.SHA384(), rsa_padding=_PSS)
        )

    return Hierarchy(product, ark, state.certificate(f"{prefix}-{issuer}", make_ask), ark_key, ask_key, kind)


def _authority(subject: str, issuer: str, key: rsa.RSAPublicKey, period: Period) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject, _UNIT))
        .issuer_name(name(issuer, _UNIT))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(period.start)
        .not_valid_after(period.end)
    )


def _leaf_extensions(product: Product, kind: str, tcb: int) -> list[tuple[str, bytes]]:
    """AMD's extensions up to the identity, in the order of genuine certificates: arc suffix, value."""
    spl = {part: der.integer(value) for part, value in tcb_parts(tcb, product).items()}
    zero = der.integer(0)
    turin = product is Product.TURIN
    # A VLEK is for all parts of a product: it names no stepping.
    name_of = _PRODUCT_NAMES[product] if kind == "VCEK" else str(product)
    head = [("1", der.integer(1 if turin else 0)), ("2", der.ia5(name_of))]
    boot = [("3.1", spl["bootloader"]), ("3.2", spl["tee"])]
    spare = [("3.5", zero), ("3.6", zero), ("3.7", zero)]
    firmware = ("3.3", spl["snp"])
    middle = [("3.9", spl["fmc"]), *boot, firmware, *spare] if turin else [*boot, ("3.4", zero), *spare, firmware]
    return [*head, *middle, ("3.8", spl["microcode"])]
