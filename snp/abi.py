"""The SEV-SNP ATTESTATION_REPORT, versions 2 to 5: bytes to named values and back.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI Specification, revision 1.58: ATTESTATION_REPORT, ECDSA
signature format. Decides form only: whether a report is to be believed is snp.verify's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from agent.core.wire import Record, raw, uint
from snp.words import POLICY_BITS, Product, product_of, tcb_parts

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
"""The signature covers the bytes before this offset."""

ECDSA_P384_SHA384 = 1
"""The one SIGNATURE_ALGO that is defined."""

SIGNING_KEYS: Mapping[int, str] = {0: "VCEK", 1: "VLEK", 7: "NONE"}
"""Who signed, by the SIGNING_KEY bits; other values are reserved."""

_REPORTED_POLICY_BITS = ("smt", "reserved_must_be_one", "migrate_ma", "debug", "single_socket")


def key_info(signing_key: str = "VCEK", *, author_key_en: bool = False, mask_chip_key: bool = False) -> int:
    """The KEY_INFO word at 0x48: for ``Report.build(key_info=...)``."""
    number = {name: value for value, name in SIGNING_KEYS.items()}[signing_key]
    return number << 2 | mask_chip_key << 1 | author_key_en


class Report(Record, size=REPORT_SIZE, title="report"):
    """What all versions have in common, and version 2 complete. Integers little endian, signature parts as well."""

    VERSION: ClassVar[int] = 2

    version = uint(0x000, 32)
    guest_svn = uint(0x004, 32)
    policy = uint(0x008, 64)
    family_id = raw(0x010, 16)
    image_id = raw(0x020, 16)
    vmpl = uint(0x030, 32)
    signature_algo = uint(0x034, 32)
    current_tcb = uint(0x038, 64)
    platform_info = uint(0x040, 64)
    key_info = uint(0x048, 32)
    report_data = raw(0x050, 64)
    measurement = raw(0x090, 48)
    host_data = raw(0x0C0, 32)
    id_key_digest = raw(0x0E0, 48)
    author_key_digest = raw(0x110, 48)
    report_id = raw(0x140, 32)
    report_id_ma = raw(0x160, 32)
    reported_tcb = uint(0x180, 64)
    chip_id = raw(0x1A0, 64)
    committed_tcb = uint(0x1E0, 64)
    current_build = uint(0x1E8, 8)
    current_minor = uint(0x1E9, 8)
    current_major = uint(0x1EA, 8)
    committed_build = uint(0x1EC, 8)
    committed_minor = uint(0x1ED, 8)
    committed_major = uint(0x1EE, 8)
    launch_tcb = uint(0x1F0, 64)
    signature_r = uint(0x2A0, 576)
    signature_s = uint(0x2E8, 576)

    @classmethod
    def build(cls, **values: Any) -> Self:
        """A report with these fields; ``version`` and ``signature_algo`` are set unless given, the rest is zero."""
        return super().build(**{"version": cls.VERSION, "signature_algo": ECDSA_P384_SHA384, **values})

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return self.data[:SIGNED_SIZE]

    @property
    def signing_key(self) -> str:
        """VCEK, VLEK or NONE."""
        return SIGNING_KEYS[self.key_info >> 2 & 7]

    @property
    def product(self) -> Product | None:
        """From the CPUID bytes; None where the version has none or the part is unknown."""
        return None

    def signature_der(self) -> bytes:
        """The signature as ECDSA-Sig-Value (DER)."""
        body = _der_integer(self.signature_r) + _der_integer(self.signature_s)
        return b"\x30" + bytes([len(body)]) + body

    def with_signature(self, der: bytes) -> Self:
        """The report with this signature (ECDSA-Sig-Value in DER, P-384). Raises FormatError."""
        r, s = _der_integers(der)
        return self.replace(signature_r=r, signature_s=s)

    def fields(self, product: Product | None = None) -> dict[str, Any]:
        """Named values, JSON-able. Byte strings are hex in file order, 64-bit words hex numbers with "0x".

        ``product`` decides the layout of the TCB words where the report has no CPUID bytes (version 2).
        """
        product = self.product or product
        flags = self.key_info
        return {
            "version": self.version,
            "guest_svn": self.guest_svn,
            "policy": _word(self.policy),
            "policy_bits": _policy_fields(self.policy),
            "family_id": self.family_id.hex(),
            "image_id": self.image_id.hex(),
            "vmpl": self.vmpl,
            "signature_algo": self.signature_algo,
            "platform_info": _word(self.platform_info),
            "key_flags_raw": f"0x{flags:08x}",
            "author_key_en": flags & 1,
            "mask_chip_key": flags >> 1 & 1,
            "signing_key": flags >> 2 & 7,
            "report_data": self.report_data.hex(),
            "measurement": self.measurement.hex(),
            "host_data": self.host_data.hex(),
            "id_key_digest": self.id_key_digest.hex(),
            "author_key_digest": self.author_key_digest.hex(),
            "report_id": self.report_id.hex(),
            "report_id_ma": self.report_id_ma.hex(),
            "current_tcb": _tcb_fields(self.current_tcb, product),
            "reported_tcb": _tcb_fields(self.reported_tcb, product),
            "committed_tcb": _tcb_fields(self.committed_tcb, product),
            "launch_tcb": _tcb_fields(self.launch_tcb, product),
            "cpuid": None,
            "chip_id": self.chip_id.hex(),
            "current_version": f"{self.current_major}.{self.current_minor}.{self.current_build}",
            "committed_version": f"{self.committed_major}.{self.committed_minor}.{self.committed_build}",
        }


class ReportV2(Report):
    """Version 2: no CPUID bytes."""


class ReportV3(Report):
    """Version 3 adds family, model and stepping (combined with their extended parts)."""

    VERSION = 3

    cpuid_family = uint(0x188, 8)
    cpuid_model = uint(0x189, 8)
    cpuid_stepping = uint(0x18A, 8)

    @property
    def product(self) -> Product | None:
        return product_of(self.cpuid_family, self.cpuid_model)

    def fields(self, product: Product | None = None) -> dict[str, Any]:
        cpuid = {"family": self.cpuid_family, "model": self.cpuid_model, "stepping": self.cpuid_stepping}
        return {**super().fields(product), "cpuid": cpuid}


class ReportV4(ReportV3):
    """Version 4: the layout of version 3."""

    VERSION = 4


class ReportV5(ReportV4):
    """Version 5 adds the mitigation vectors."""

    VERSION = 5

    launch_mit_vector = uint(0x1F8, 64)
    current_mit_vector = uint(0x200, 64)

    def fields(self, product: Product | None = None) -> dict[str, Any]:
        vectors = {
            "launch_mit_vector": _word(self.launch_mit_vector),
            "current_mit_vector": _word(self.current_mit_vector),
        }
        return {**super().fields(product), **vectors}


VERSIONS: Mapping[int, type[Report]] = {cls.VERSION: cls for cls in (ReportV2, ReportV3, ReportV4, ReportV5)}


def parse(data: bytes) -> Report:
    """A report of a known version, exactly 1184 bytes, reserved bytes zero.

    Raises Truncated, Oversized, UnsupportedVersion, FormatError. ``report.data`` is the input, byte for byte.
    """
    if len(data) == REPORT_SIZE:
        version = int.from_bytes(data[:4], "little")
        if version not in VERSIONS:
            raise UnsupportedVersion(
                f"unsupported report version {version}",
                record="report",
                offset=0,
                expected=f"one of {sorted(VERSIONS)}",
                got=str(version),
                hint="a newer firmware may need a newer tee-agent",
            )
        report = VERSIONS[version].parse(data)
        _check_ranges(report)
        return report
    # Wrong length: any version's parser says so, and in which direction.
    return ReportV2.parse(data)


def _check_ranges(report: Report) -> None:
    """Values inside fields that AMD reserves: a reader of ours must never guess at them."""
    flags = report.key_info
    if flags >> 5 or flags >> 2 & 7 not in SIGNING_KEYS:
        raise FormatError(
            f"report: KEY_INFO 0x{flags:08x} has reserved bits or an undefined signing key",
            record="report",
            offset=0x48,
            got=f"0x{flags:08x}",
            code="format.reserved",
        )
    for name, value in (("r", report.signature_r), ("s", report.signature_s)):
        if value.bit_length() > 384:
            raise FormatError(f"report: signature {name} has more than 384 bits", record="report", offset=SIGNED_SIZE)


def _word(value: int) -> str:
    return f"0x{value:016x}"


def _tcb_fields(word: int, product: Product | None) -> dict[str, Any]:
    return {"raw": _word(word), **tcb_parts(word, product)}


def _policy_fields(word: int) -> dict[str, Any]:
    bits = {name: bool(word >> POLICY_BITS[name] & 1) for name in _REPORTED_POLICY_BITS}
    return {"abi_minor": word & 0xFF, "abi_major": word >> 8 & 0xFF, **bits}


def _der_integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return b"\x02" + bytes([len(data)]) + data


def _der_integers(der: bytes) -> tuple[int, int]:
    """Both integers of a P-384 ECDSA-Sig-Value; re-encoded and compared, so only DER passes."""
    if not 8 <= len(der) <= 104:
        raise (Truncated if len(der) < 8 else Oversized)(
            f"ECDSA signature has {len(der)} bytes; a P-384 one has 8 to 104", record="signature"
        )
    size = der[3]
    r = int.from_bytes(der[4 : 4 + size], "big")
    s = int.from_bytes(der[6 + size :], "big")
    body = _der_integer(r) + _der_integer(s)
    if max(r.bit_length(), s.bit_length()) > 384 or der != b"\x30" + bytes([len(body)]) + body:
        raise FormatError("ECDSA signature is not DER of two P-384 integers", record="signature")
    return r, s
