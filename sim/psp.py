"""A simulated AMD secure processor: attestation reports of one guest on one chip, signed with a throw-away VCEK.

Layouts as snp.abi (AMD 56860). The certificate table is what the host would hand over (GHCB specification 56421,
SNP Extended Guest Request): ARK, ASK and VCEK in DER.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core.model import Endorsements
from sim import keys, pki_amd
from sim.kernel import Made
from snp import certtable
from snp.abi import VERSIONS, Report
from snp.words import Product, policy_word, tcb_word

CPUID = {Product.MILAN: (0x19, 0x01, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 0x02, 1)}
"""Family, model, stepping of a part of each product."""

_TCB = {
    Product.MILAN: tcb_word(Product.MILAN, bootloader=4, tee=0, snp=24, microcode=219),
    Product.GENOA: tcb_word(Product.GENOA, bootloader=10, tee=0, snp=23, microcode=84),
    Product.TURIN: tcb_word(Product.TURIN, fmc=1, bootloader=1, tee=0, snp=4, microcode=81),
}
_FIRMWARE = (1, 55, 54)
_PLATFORM_INFO = 0x25
"""SMT, ECC memory, alias check complete."""


def default_measurement() -> bytes:
    """48 bytes that no genuine guest has."""
    return hashlib.sha384(b"tee-agent simulator: launch measurement").digest()


@dataclass(frozen=True)
class GuestOptions:
    """What the host decided at launch."""

    version: int = 3
    product: Product = Product.GENOA
    measurement: bytes = b""
    host_data: bytes = bytes(32)
    debug: bool = False
    vmpl_floor: int = 0


class SecureProcessor:
    """One chip with one guest. Fulfils sim.faults.Hardware."""

    name = "sev_guest"
    has_auxblob = True

    def __init__(self, state: keys.State, options: GuestOptions, now: datetime) -> None:
        self._options = options
        self.privlevel_floor: int | None = options.vmpl_floor
        product = options.product
        prefix = f"amd-{product.lower()}"
        with state.locked():
            self.hierarchy = pki_amd.hierarchy(state, product, now)
            self._key = state.ec_key(f"{prefix}-vcek", ec.SECP384R1())
            chip_id = state.kept(f"{prefix}-chip-id", lambda: os.urandom(64))
        # A Turin part has an id of 8 bytes; the rest of the field is zero.
        self._chip_id = chip_id[:8] + bytes(56) if product is Product.TURIN else chip_id
        self.vcek = self.hierarchy.vcek(self._key.public_key(), self._chip_id, _TCB[product], now)
        self.crl = self.hierarchy.crl(now)
        self._table = certtable.build(
            {
                "ARK": keys.der(self.hierarchy.ark),
                "ASK": keys.der(self.hierarchy.ask),
                "VCEK": self.vcek,
            }
        )
        self._report_id = os.urandom(32)

    @property
    def root(self) -> x509.Certificate:
        return self.hierarchy.ark

    def certificates(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        return {"ark": keys.der(self.hierarchy.ark), "ask": keys.der(self.hierarchy.ask), "vcek": self.vcek}

    def crls(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        return {"ark": keys.der(self.crl)}

    def endorsements(self) -> Endorsements:
        """Everything that a verifier needs but the trust in the root."""
        return Endorsements(tuple(self.certificates().values()), tuple(self.crls().values()))

    def report(self, report_data: bytes, privlevel: int, *, debug: bool = False) -> Made:
        """A signed report over ``report_data`` (64 bytes) for VMPL ``privlevel``, and the host's certificates."""
        unsigned = self._unsigned(report_data, privlevel, debug=debug or self._options.debug)
        signature = self._key.sign(unsigned.signed, ec.ECDSA(hashes.SHA384()))
        return Made(unsigned.with_signature(signature).data, self._table)

    def _unsigned(self, report_data: bytes, vmpl: int, *, debug: bool) -> Report:
        options = self._options
        tcb = _TCB[options.product]
        major, minor, build = _FIRMWARE
        return VERSIONS[options.version].build(
            policy=policy_word(smt=True, debug=debug),
            vmpl=vmpl,
            current_tcb=tcb,
            reported_tcb=tcb,
            committed_tcb=tcb,
            launch_tcb=tcb,
            platform_info=_PLATFORM_INFO,
            report_data=report_data,
            measurement=options.measurement or default_measurement(),
            host_data=options.host_data,
            report_id=self._report_id,
            report_id_ma=b"\xff" * 32,
            chip_id=self._chip_id,
            current_major=major,
            current_minor=minor,
            current_build=build,
            committed_major=major,
            committed_minor=minor,
            committed_build=build,
            **self._cpuid(),
        )

    def _cpuid(self) -> dict[str, Any]:
        """Version 2 has no CPUID bytes."""
        if self._options.version < 3:
            return {}
        family, model, stepping = CPUID[self._options.product]
        return {"cpuid_family": family, "cpuid_model": model, "cpuid_stepping": stepping}
