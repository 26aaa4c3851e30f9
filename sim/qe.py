"""A simulated TDX quoting enclave: quotes of one trust domain, signed with a throw-away attestation key and PCK.

Layout as tdx.abi (Intel TDX DCAP Quote Generation Library, appendices A.3 and A.4). The quote is delivered in a larger
zeroed buffer, as genuine hosts do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta

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
class Delivery:
    """What becomes of a good quote on its way: order of its PCK chain, said length of the signature data, what follows.

    ``order`` are positions in leaf, platform CA, root; ``said_length`` 0 is the true one; ``size`` is with padding.
    """

    order: tuple[int, ...] = (0, 1, 2)
    said_length: int = 0
    size: int = DELIVERED
    tail: bytes = b""


@dataclass(frozen=True)
class DomainOptions:
    """The TD's measurements (48 bytes each; empty: default_register), its attributes and its platform's state.

    ``td15`` is the TD 1.5 body, of quote version 5 only. ``launch_steps`` adds to the TDX module's SVN at launch
    (TEE_TCB_SVN), ``svn_steps`` also to that of now. ``collateral_age`` makes the dates of CRLs, TCB info and QE
    identity so much older; ``revoked`` is "" or the certificate that the CRLs list: pck, platform or tcb-signing.
    """

    mr_td: bytes = b""
    rtmr0: bytes = b""
    rtmr1: bytes = b""
    rtmr2: bytes = b""
    rtmr3: bytes = b""
    debug: bool = False
    version: int = 4
    td15: bool = False
    sept_ve_disable: bool = True
    mr_service_td: bytes = bytes(48)
    launch_steps: int = 0
    svn_steps: int = 0
    collateral_age: timedelta = timedelta()
    revoked: str = ""
    delivery: Delivery = Delivery()

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
        said = now - options.collateral_age
        self.tcb_info = self.hierarchy.tcb_info(said)
        self.qe_identity = self.hierarchy.qe_identity(said)
        self._crls = self._revocation(said)
        self._key = ec.generate_private_key(ec.SECP256R1())
        numbers = self._key.public_key().public_numbers()
        self._public = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
        self._qe_report = _qe_report(self._public)
        self._qe_signature = pki_intel.raw_signature(pck_key, self._qe_report.data)
        chain = [keys.pem(one) for one in (self.pck, self.hierarchy.platform, self.hierarchy.root)]
        # Genuine quotes end the PEM chain with a NUL.
        self._chain = b"".join(chain[index] for index in options.delivery.order) + b"\0"

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

    def report(self, report_data: bytes, privlevel: int = 0, *, debug: bool = False, tcb_steps: int = 0) -> Made:
        """A signed quote over ``report_data`` (64 bytes), zero padded. TDX knows one privilege level only: 0.

        ``tcb_steps``: the TDX module updated by so much.
        """
        if privlevel:
            raise failure(errno.EINVAL)
        signed = abi.signed_part(self._header(), self._body(report_data, tcb_steps, debug=debug or self._options.debug))
        quote = abi.build_quote(
            signed,
            signature=pki_intel.raw_signature(self._key, signed),
            attestation_key=self._public,
            qe_report=self._qe_report,
            qe_signature=self._qe_signature,
            auth_data=_AUTH_DATA,
            certificates=self._chain,
        )
        delivery = self._options.delivery
        if delivery.said_length:
            quote = signed + struct.pack("<I", delivery.said_length) + quote[len(signed) + 4 :]
        return Made((quote + delivery.tail).ljust(delivery.size, b"\0"))

    def _revocation(self, at: datetime) -> dict[str, x509.CertificateRevocationList]:
        revoked = self._options.revoked
        by_root = {"platform": self.hierarchy.platform, "tcb-signing": self.hierarchy.tcb_signing}
        serials = [by_root[revoked].serial_number] if revoked in by_root else []
        leaves = [self.pck.serial_number] if revoked == "pck" else []
        return {
            "root-ca": self.hierarchy.root_crl(at, serials),
            "pck-platform-ca": self.hierarchy.pck_crl(at, leaves),
        }

    def _header(self) -> abi.Header:
        return abi.Header.build(
            version=self._options.version,
            att_key_type=abi.ECDSA_P256,
            tee_type=abi.TEE_TDX,
            qe_vendor_id=abi.INTEL_QE_VENDOR,
            user_data=_QE_USER_DATA,
        )

    def _body(self, report_data: bytes, steps: int, *, debug: bool) -> abi.Body:
        options = self._options
        attributes = (_SEPT_VE_DISABLE if options.sept_ve_disable else 0) | (abi.TD_DEBUG if debug else 0)
        values = {
            "tee_tcb_svn": _svns(options.svn_steps + options.launch_steps + steps),
            "mr_seam": hashlib.sha384(b"tee-agent simulator: TDX module").digest(),
            "td_attributes": attributes.to_bytes(8, "little"),
            "xfam": _XFAM,
            "report_data": report_data,
            **options.registers(),
        }
        if not options.td15:
            return abi.Body.build(**values)
        now = _svns(options.svn_steps + steps)
        return abi.Body15.build(**values, tee_tcb_svn_2=now, mr_service_td=options.mr_service_td)


def _svns(steps: int) -> bytes:
    """TEE_TCB_SVN with the module's SVN so many steps from its newest."""
    return bytes((pki_intel.TDX_SVNS[0] + steps, *pki_intel.TDX_SVNS[1:]))


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
