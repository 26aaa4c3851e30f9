"""A throw-away Intel provisioning hierarchy: root, platform CA, PCK, TCB signer (all P-256), CRLs and collateral.

Form as Intel's own: "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification" (the PCK's SGX
extension) and the Provisioning Certification Service API v4 (TCB info v3, QE identity v2; the signature is r || s
in hex over the exact bytes of the inner object). Only O of every name says who made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

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
from tdx import roots

_UNIT = "throw-away, trusted by nobody"
_SGX = "1.2.840.113741.1.13.1"
FMSPC = b"SIM\0\0\0"
PCE_ID = bytes(2)
SGX_SVNS = (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
"""SVN of the 16 SGX TCB components of the simulated platform."""
PCE_SVN = 11
TDX_SVNS = (6, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""TEE_TCB_SVN: TDX module 1.x with SVN 6, late microcode SVN 3."""
QE_ISV_SVN = 6
EVALUATION = 17
_TCB_DATE = "2024-03-13T00:00:00Z"
_OLD_DATE = "2023-08-09T00:00:00Z"
_OLD_ADVISORY = "INTEL-SA-00837"


@dataclass(frozen=True)
class Hierarchy:
    """Root, platform CA and TCB signer, with the keys that sign."""

    root: x509.Certificate
    platform: x509.Certificate
    tcb_signing: x509.Certificate
    root_key: ec.EllipticCurvePrivateKey
    platform_key: ec.EllipticCurvePrivateKey
    tcb_key: ec.EllipticCurvePrivateKey

    def pck(self, key: ec.EllipticCurvePrivateKey, ppid: bytes, instance: bytes, now: datetime) -> x509.Certificate:
        """The platform's certificate. ``ppid`` and ``instance`` have 16 bytes."""
        period = Period(collateral_period(now).start, self.platform.not_valid_after_utc)
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(_SGX), sgx_extension(ppid, instance))
        return (
            _builder("Intel SGX PCK Certificate", "Intel SGX PCK Platform CA", key, period)
            .add_extension(authority_key(self.platform_key), critical=False)
            .add_extension(distribution_point("sgx/certification/v4/pckcrl"), critical=False)
            .add_extension(subject_key(key), critical=False)
            .add_extension(usage(signs_data=True), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(extension, critical=False)
            .sign(self.platform_key, hashes.SHA256())
        )

    def root_crl(self, now: datetime, revoked: Sequence[int] = ()) -> x509.CertificateRevocationList:
        """The root's CRL: it may revoke the platform CA and the TCB signer."""
        return _crl(self.root, self.root_key, now, revoked)

    def pck_crl(self, now: datetime, revoked: Sequence[int] = ()) -> x509.CertificateRevocationList:
        """The platform CA's CRL: it may revoke PCKs."""
        return _crl(self.platform, self.platform_key, now, revoked)

    def tcb_info(self, now: datetime, **changes: Any) -> bytes:
        """TCB info v3 of our FMSPC, signed: current for our SVNs, OutOfDate below them; members of it may differ."""
        return self._signed("tcbInfo", {"id": "TDX", "version": 3, **_issued(now), **_tcb_info_body(), **changes})

    def qe_identity(self, now: datetime, **changes: Any) -> bytes:
        """QE identity v2 (TD_QE), signed, for Intel's enclave signer: current for our SVN; members may differ."""
        body = {
            "id": "TD_QE",
            "version": 2,
            **_issued(now),
            "tcbEvaluationDataNumber": EVALUATION,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": roots.QE_MRSIGNER.hex().upper(),
            "isvprodid": roots.QE_PRODUCT,
            "tcbLevels": [level({"isvsvn": QE_ISV_SVN - 2})],
            **changes,
        }
        return self._signed("enclaveIdentity", body)

    def _signed(self, key: str, body: dict[str, Any]) -> bytes:
        inner = json.dumps(body, separators=(",", ":")).encode()
        signature = raw_signature(self.tcb_key, inner).hex().encode()
        return b'{"%s":%s,"signature":"%s"}' % (key.encode(), inner, signature)


def hierarchy(state: State, now: datetime) -> Hierarchy:
    """The CAs from ``state``, made there first if need be (call under state.locked())."""
    root_key, platform_key, tcb_key = (
        state.ec_key(f"intel-{which}", ec.SECP256R1()) for which in ("root", "platform", "tcb-signing")
    )
    root = state.certificate("intel-root", lambda: _authority("Intel SGX Root CA", root_key, root_key, 1, now))
    platform = state.certificate(
        "intel-platform", lambda: _authority("Intel SGX PCK Platform CA", platform_key, root_key, 0, now)
    )

    def make_tcb_signing() -> x509.Certificate:
        return (
            _builder("Intel SGX TCB Signing", "Intel SGX Root CA", tcb_key, root_period(now))
            .add_extension(authority_key(root_key), critical=False)
            .add_extension(distribution_point("IntelSGXRootCA.der"), critical=False)
            .add_extension(subject_key(tcb_key), critical=False)
            .add_extension(usage(signs_data=True), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(root_key, hashes.SHA256())
        )

    tcb_signing = state.certificate("intel-tcb-signing", make_tcb_signing)
    return Hierarchy(root, platform, tcb_signing, root_key, platform_key, tcb_key)


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 with SHA-256 as r || s, big endian, 64 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def sgx_extension(ppid: bytes, instance: bytes) -> bytes:
    """The SGX extension of a PCK of a multi-package platform: all seven members."""
    components = [_member(f"2.{index}", der.integer(svn)) for index, svn in enumerate(SGX_SVNS, 1)]
    tcb = [*components, _member("2.17", der.integer(PCE_SVN)), _member("2.18", der.octets(bytes(SGX_SVNS)))]
    configuration = [_member(f"7.{index}", der.boolean(True)) for index in (1, 2, 3)]
    return der.sequence(
        _member("1", der.octets(ppid)),
        _member("2", der.sequence(*tcb)),
        _member("3", der.octets(PCE_ID)),
        _member("4", der.octets(FMSPC)),
        _member("5", der.enumerated(1)),
        _member("6", der.octets(instance)),
        _member("7", der.sequence(*configuration)),
    )


def _member(suffix: str, value: bytes) -> bytes:
    return der.sequence(der.oid(f"{_SGX}.{suffix}"), value)


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, period: Period) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name(subject, _UNIT))
        .issuer_name(name(issuer, _UNIT))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(period.start)
        .not_valid_after(period.end)
    )


def _authority(
    subject: str, key: ec.EllipticCurvePrivateKey, root_key: ec.EllipticCurvePrivateKey, path: int, now: datetime
) -> x509.Certificate:
    return (
        _builder(subject, "Intel SGX Root CA", key, root_period(now))
        .add_extension(authority_key(root_key), critical=False)
        .add_extension(distribution_point("IntelSGXRootCA.der"), critical=False)
        .add_extension(subject_key(key), critical=False)
        .add_extension(usage(signs_certificates=True, signs_crls=True), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        .sign(root_key, hashes.SHA256())
    )


def _crl(
    issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, now: datetime, revoked: Sequence[int]
) -> x509.CertificateRevocationList:
    period = collateral_period(now)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(period.start)
        .next_update(period.end)
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(authority_key(key), critical=False)
    )
    reason = x509.CRLReason(x509.ReasonFlags.key_compromise)
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(period.start)
        builder = builder.add_revoked_certificate(entry.add_extension(reason, critical=False).build())
    return builder.sign(key, hashes.SHA256())


def _issued(now: datetime) -> dict[str, str]:
    period = collateral_period(now)
    return {"issueDate": _stamp(period.start), "nextUpdate": _stamp(period.end)}


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tcb_info_body() -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    svn = TDX_SVNS[0]
    old = (*SGX_SVNS[:7], SGX_SVNS[7] - 1, *SGX_SVNS[8:])
    return {
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {"id": "TDX_03", **module, "tcbLevels": [level({"isvsvn": 3})]},
            {
                "id": "TDX_01",
                **module,
                "tcbLevels": [level({"isvsvn": svn}), level({"isvsvn": svn - 2}, "OutOfDate", _OLD_DATE)],
            },
        ],
        "tcbLevels": [
            level(platform_tcb(SGX_SVNS, PCE_SVN, TDX_SVNS)),
            {
                **level(platform_tcb(old, 5, (1, 0, 2, *[0] * 13)), "OutOfDate", _OLD_DATE),
                "advisoryIDs": [_OLD_ADVISORY],
            },
        ],
    }


def platform_tcb(sgx: Sequence[int], pce: int, tdx: Sequence[int]) -> dict[str, Any]:
    """The ``tcb`` member of a platform's level: least SVNs of its components."""
    # The module's major version (second component) is no SVN: Intel's levels have 0 there.
    tdx = (tdx[0], 0, *tdx[2:])
    return {
        "sgxtcbcomponents": [{"svn": svn} for svn in sgx],
        "pcesvn": pce,
        "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
    }


def level(tcb: dict[str, Any], status: str = "UpToDate", date: str = _TCB_DATE) -> dict[str, Any]:
    """A TCB level, of a platform, a module or an enclave."""
    return {"tcb": tcb, "tcbDate": date, "tcbStatus": status}
