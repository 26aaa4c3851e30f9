"""A simulated TDX quoting enclave: quotes of one trust domain, signed with a throw-away attestation key and PCK.

Layout as tdx.abi (Intel TDX DCAP Quote Generation Library, appendix A.3). The quote is delivered in a larger zeroed
buffer, as genuine hosts do.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core.model import Endorsements
from sim import keys, pki_intel
from sim.kernel import Made, failure
from tdx import abi, roots

DELIVERED = 8000
"""Bytes of outblob: what the quote does not fill is zero."""
_QE_USER_DATA = bytes(20)
_AUTH_DATA = bytes(range(32))
_SEPT_VE_DISABLE = 1 << 28
_XFAM = bytes.fromhex("e702060000000000")


def default_register(name: str) -> bytes:
    """A 48-byte value that no genuine TD has; RTMR3 starts as zeros, as after every boot."""
    return bytes(48) if name == "rtmr3" else hashlib.sha384(f"tee-agent simulator: {name}".encode()).digest()


@dataclass(frozen=True)
class DomainOptions:
    """The TD's measurements (48 bytes each; empty: default_register) and whether it may be debugged."""

    mr_td: bytes = b""
    rtmr0: bytes = b""
    rtmr1: bytes = b""
    rtmr2: bytes = b""
    rtmr3: bytes = b""
    debug: bool = False

    def registers(self) -> dict[str, bytes]:
        names = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
        return {name: getattr(self, name) or default_register(name) for name in names}


class QuotingEnclave:
    """One platform with one TD. Fulfils sim.faults.Hardware."""

    name = "tdx_guest"
    privlevel_floor = None
    has_auxblob = False

    def __init__(self, state: keys.State, options: DomainOptions, now: datetime) -> None:
        self._options = options
        with state.locked():
            self.hierarchy = pki_intel.hierarchy(state, now)
            pck_key = state.ec_key("intel-pck", ec.SECP256R1())
            platform_id = state.kept("intel-platform-id", lambda: os.urandom(32))
        self.pck = self.hierarchy.pck(pck_key, platform_id[:16], platform_id[16:], now)
        self.tcb_info = self.hierarchy.tcb_info(now)
        self.qe_identity = self.hierarchy.qe_identity(now)
        self._crls = {"root-ca": self.hierarchy.root_crl(now), "pck-platform-ca": self.hierarchy.pck_crl(now)}
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self._public = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        self._qe_report = _qe_report(self._public)
        self._qe_signature = pki_intel.raw_signature(pck_key, self._qe_report.data)
        # Genuine quotes end the PEM chain with a NUL.
        self._chain = b"".join(map(keys.pem, (self.pck, self.hierarchy.platform, self.hierarchy.root))) + b"\0"

    @property
    def root(self) -> x509.Certificate:
        return self.hierarchy.root

    def certificates(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        return {
            "pck": keys.der(self.pck),
            "pck-platform-ca": keys.der(self.hierarchy.platform),
            "root-ca": keys.der(self.hierarchy.root),
            "tcb-signing": keys.der(self.hierarchy.tcb_signing),
        }

    def crls(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        return {name: keys.der(crl) for name, crl in self._crls.items()}

    def endorsements(self) -> Endorsements:
        """Everything that a verifier needs but the trust in the root."""
        return Endorsements(
            tuple(self.certificates().values()), tuple(self.crls().values()), self.tcb_info, self.qe_identity
        )

    def report(self, report_data: bytes, privlevel: int = 0, *, debug: bool = False) -> Made:
        """A signed quote over ``report_data`` (64 bytes), zero padded. TDX knows one privilege level only: 0."""
        if privlevel:
            raise failure(errno.EINVAL)
        signed = abi.signed_part(_HEADER, self._body(report_data, debug=debug or self._options.debug))
        quote = abi.build_quote(
            signed,
            signature=pki_intel.raw_signature(self._key, signed),
            attestation_key=self._public,
            qe_report=self._qe_report,
            qe_signature=self._qe_signature,
            auth_data=_AUTH_DATA,
            certificates=self._chain,
        )
        return Made(quote.ljust(DELIVERED, b"\0"))

    def _body(self, report_data: bytes, *, debug: bool) -> abi.Body:
        attributes = _SEPT_VE_DISABLE | (abi.TD_DEBUG if debug else 0)
        return abi.Body.build(
            tee_tcb_svn=bytes(pki_intel.TDX_SVNS),
            mr_seam=hashlib.sha384(b"tee-agent simulator: TDX module").digest(),
            td_attributes=attributes.to_bytes(8, "little"),
            xfam=_XFAM,
            report_data=report_data,
            **self._options.registers(),
        )


_HEADER = abi.Header.build(
    version=4,
    att_key_type=abi.ECDSA_P256,
    tee_type=abi.TEE_TDX,
    qe_vendor_id=abi.INTEL_QE_VENDOR,
    user_data=_QE_USER_DATA,
)


def _qe_report(attestation_key: bytes) -> abi.QeReport:
    """The enclave's own report: Intel's signer, as verifiers demand; REPORT_DATA binds the attestation key."""
    return abi.QeReport.build(
        cpusvn=bytes(pki_intel.SGX_SVNS),
        attributes=bytes.fromhex("1500000000000000e700000000000000"),
        mrenclave=hashlib.sha256(b"tee-agent simulator: quoting enclave").digest(),
        mrsigner=roots.QE_MRSIGNER,
        isvprodid=roots.QE_PRODUCT,
        isvsvn=pki_intel.QE_ISV_SVN,
        report_data=hashlib.sha256(attestation_key + _AUTH_DATA).digest() + bytes(32),
    )
