"""A simulated AMD secure processor: attestation reports of one guest on one chip, signed with a throw-away key.

The key is a VCEK, or a VLEK as providers have it.

Layouts as snp.abi (AMD 56860). The certificate table is what the host would hand over (GHCB specification 56421,
SNP Extended Guest Request): ARK, ASK and VCEK in DER, unless its owner did it in another way (``HostTable``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core.model import Endorsements
from sim import keys, pki_amd
from sim.kernel import Made
from snp import certtable
from snp.abi import VERSIONS, Report, key_info
from snp.words import Product, policy_word, tcb_word

CPUID = {Product.MILAN: (0x19, 0x01, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 0x02, 1)}
"""Family, model, stepping of a part of each product."""
CSP_ID = "CN=simulated-provider.invalid"
"""The provider in a simulated VLEK."""

_TCB = {
    Product.MILAN: {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219},
    Product.GENOA: {"bootloader": 10, "tee": 0, "snp": 23, "microcode": 84},
    Product.TURIN: {"fmc": 1, "bootloader": 1, "tee": 0, "snp": 4, "microcode": 81},
}
_FIRMWARE = (1, 55, 54)
_PLATFORM_INFO = 0x25
"""SMT, ECC memory, alias check complete."""


def default_measurement() -> bytes:
    """48 bytes that no genuine guest has."""
    return hashlib.sha384(b"tee-agent simulator: launch measurement").digest()


@dataclass(frozen=True)
class HostTable:
    """How the host fills the certificate table: which contents under which name, in PEM or DER, and what follows."""

    contents: Mapping[str, str] = field(default_factory=lambda: {"ARK": "ark", "ASK": "issuer", "LEAF": "leaf"})
    pem: bool = False
    tail: bytes = b""


@dataclass(frozen=True)
class GuestOptions:
    """What the host decided at launch and in its configuration (SNP_CONFIG), and what it hands over.

    ``signing_key`` is VCEK, VLEK or NONE. ``tcb_steps`` adds to the SNP part of a TCB: ``current``, ``reported``,
    ``committed``, ``launch``, or ``certified`` (that of the leaf, which is the reported one otherwise).
    ``id_block`` are fields of the ID block and its keys' digests. ``crl_age`` makes the CRL's dates so much older.
    """

    version: int = 3
    product: Product = Product.GENOA
    measurement: bytes = b""
    host_data: bytes = bytes(32)
    debug: bool = False
    vmpl_floor: int = 0
    signing_key: str = "VCEK"
    mask_chip_id: bool = False
    mask_chip_key: bool = False
    tcb_steps: Mapping[str, int] = field(default_factory=dict)
    id_block: Mapping[str, Any] = field(default_factory=dict)
    table: HostTable = field(default_factory=HostTable)
    crl_age: timedelta = timedelta()
    issuer_revoked: bool = False


class SecureProcessor:
    """One chip with one guest. Fulfils sim.faults.Hardware."""

    name = "sev_guest"
    has_auxblob = True

    def __init__(self, state: keys.State, options: GuestOptions, now: datetime) -> None:
        self._options = options
        self.privlevel_floor: int | None = options.vmpl_floor
        self.kind = "VLEK" if options.signing_key == "VLEK" else "VCEK"
        product = options.product
        prefix = f"amd-{product.lower()}"
        with state.locked():
            self.hierarchy = pki_amd.hierarchy(state, product, now, self.kind)
            self._key = state.ec_key(f"{prefix}-{self.kind.lower()}", ec.SECP384R1())
            chip_id = state.kept(f"{prefix}-chip-id", lambda: os.urandom(64))
        # A Turin part has an id of 8 bytes; the rest of the field is zero.
        self._chip_id = chip_id[:8] + bytes(56) if product is Product.TURIN else chip_id
        self.leaf = self._leaf(now)
        revoked = [self.hierarchy.ask.serial_number] if options.issuer_revoked else []
        self.crl = self.hierarchy.crl(now - options.crl_age, revoked)
        self._table = self._host_table()
        self._report_id = os.urandom(32)

    @property
    def root(self) -> x509.Certificate:
        return self.hierarchy.ark

    def certificates(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        issuer, leaf = ("ask", "vcek") if self.kind == "VCEK" else ("asvk", "vlek")
        return {"ark": keys.der(self.hierarchy.ark), issuer: keys.der(self.hierarchy.ask), leaf: self.leaf}

    def crls(self) -> dict[str, bytes]:
        """DER by file name, as exported."""
        return {"ark": keys.der(self.crl)}

    def endorsements(self) -> Endorsements:
        """Everything that a verifier needs but the trust in the root."""
        return Endorsements(tuple(self.certificates().values()), tuple(self.crls().values()))

    def report(self, report_data: bytes, privlevel: int, *, debug: bool = False, tcb_steps: int = 0) -> Made:
        """A signed report over ``report_data`` (64 bytes) for VMPL ``privlevel``, and the host's certificates.

        ``tcb_steps``: firmware updated by so much, and committed; the host reports the older TCB as before.
        """
        unsigned = self._unsigned(report_data, privlevel, debug=debug or self._options.debug, tcb_steps=tcb_steps)
        if self._options.signing_key == "NONE":
            return Made(unsigned.data, self._table)
        signature = self._key.sign(unsigned.signed, ec.ECDSA(hashes.SHA384()))
        return Made(unsigned.with_signature(signature).data, self._table)

    def _tcb(self, which: str, steps: int = 0) -> int:
        parts = dict(_TCB[self._options.product])
        parts["snp"] += self._options.tcb_steps.get(which, 0) + steps
        return tcb_word(self._options.product, **parts)

    def _leaf(self, now: datetime) -> bytes:
        tcb = self._tcb("certified" if "certified" in self._options.tcb_steps else "reported")
        if self.kind == "VLEK":
            return self.hierarchy.vlek(self._key.public_key(), CSP_ID, tcb, now)
        return self.hierarchy.vcek(self._key.public_key(), self._chip_id, tcb, now)

    def _host_table(self) -> bytes:
        ark, issuer, leaf = self.certificates().values()
        made = {"ark": ark, "issuer": issuer, "leaf": leaf}
        table = self._options.table
        entries = {name if name != "LEAF" else self.kind: made[which] for name, which in table.contents.items()}
        if table.pem:
            entries = {name: keys.pem_of(content) for name, content in entries.items()}
        return certtable.build(entries) + table.tail

    def _unsigned(self, report_data: bytes, vmpl: int, *, debug: bool, tcb_steps: int) -> Report:
        options = self._options
        major, minor, build = _FIRMWARE
        author = "author_key_digest" in options.id_block
        return VERSIONS[options.version].build(
            policy=policy_word(smt=True, debug=debug),
            vmpl=vmpl,
            key_info=key_info(options.signing_key, author_key_en=author, mask_chip_key=options.mask_chip_key),
            current_tcb=self._tcb("current", tcb_steps),
            reported_tcb=self._tcb("reported"),
            committed_tcb=self._tcb("committed", tcb_steps),
            launch_tcb=self._tcb("launch"),
            platform_info=_PLATFORM_INFO,
            report_data=report_data,
            measurement=options.measurement or default_measurement(),
            host_data=options.host_data,
            report_id=self._report_id,
            report_id_ma=b"\xff" * 32,
            chip_id=bytes(64) if options.mask_chip_id else self._chip_id,
            current_major=major,
            current_minor=minor,
            current_build=build,
            committed_major=major,
            committed_minor=minor,
            committed_build=build,
            **options.id_block,
            **self._cpuid(),
        )

    def _cpuid(self) -> dict[str, Any]:
        """Version 2 has no CPUID bytes."""
        if self._options.version < 3:
            return {}
        family, model, stepping = CPUID[self._options.product]
        return {"cpuid_family": family, "cpuid_model": model, "cpuid_stepping": stepping}
