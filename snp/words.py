"""Words inside a report: guest POLICY, PLATFORM_INFO, TCB_VERSION (which differs by product), products by CPUID.

Source: AMD 56860, SEV Secure Nested Paging Firmware ABI Specification, revision 1.58: guest policy, ATTESTATION_REPORT
(PLATFORM_INFO, CPUID bytes) and TCB_VERSION.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from agent.core.errors import FormatError

POLICY_BITS: Mapping[str, int] = {
    "smt": 16,
    "reserved_must_be_one": 17,
    "migrate_ma": 18,
    "debug": 19,
    "single_socket": 20,
    "cxl_allow": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding_dram": 24,
    "page_swap_disable": 25,
}

PLATFORM_BITS: Mapping[str, int] = {
    "smt_en": 0,
    "tsme_en": 1,
    "ecc_en": 2,
    "rapl_dis": 3,
    "ciphertext_hiding_dram_en": 4,
    "alias_check_complete": 5,
    "iommu_write_safe": 6,
    "tio_en": 7,
}


class Product(StrEnum):
    """A product line with a key hierarchy of its own. The value is the name in AMD's certificates."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_NAMES = {**{str(product): product for product in Product}, "Bergamo": Product.GENOA, "Siena": Product.GENOA}
_MODELS: tuple[tuple[int, range, Product], ...] = (
    (0x19, range(0x10), Product.MILAN),
    (0x19, range(0x10, 0x20), Product.GENOA),
    (0x19, range(0xA0, 0xB0), Product.GENOA),  # Bergamo and Siena hang under Genoa's keys
    (0x1A, range(0x12), Product.TURIN),
)

_TCB_19H = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TCB_1AH = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


def tcb_layout(product: Product | None) -> Mapping[str, int]:
    """Byte of each security version in a TCB_VERSION word. Unknown product: the layout of family 19h."""
    return _TCB_1AH if product is Product.TURIN else _TCB_19H


def tcb_parts(word: int, product: Product | None) -> dict[str, int]:
    """The security versions (0..255) in a TCB_VERSION word; its reserved bytes are left out."""
    return {name: word >> 8 * at & 0xFF for name, at in tcb_layout(product).items()}


def tcb_word(product: Product | None, **parts: int) -> int:
    """A TCB_VERSION word; absent parts are zero. Raises FormatError for a part it has no place or no room for."""
    layout = tcb_layout(product)
    word = 0
    for name, value in parts.items():
        if name not in layout or not 0 <= value <= 0xFF:
            raise FormatError(f"TCB_VERSION has no place for {name}={value}", record="TCB_VERSION")
        word |= value << 8 * layout[name]
    return word


def policy_word(*, abi_major: int = 0, abi_minor: int = 0, **bits: bool) -> int:
    """A guest POLICY word from the names in POLICY_BITS; bit 17 is always one. Raises KeyError for other names."""
    word = 1 << POLICY_BITS["reserved_must_be_one"] | abi_major << 8 | abi_minor
    for name, value in bits.items():
        word |= value << POLICY_BITS[name]
    return word


def policy_bits(word: int) -> dict[str, bool]:
    """Every defined bit of a guest POLICY word by name."""
    return {name: bool(word >> at & 1) for name, at in POLICY_BITS.items()}


def platform_bits(word: int) -> dict[str, bool]:
    """Every defined bit of a PLATFORM_INFO word by name."""
    return {name: bool(word >> at & 1) for name, at in PLATFORM_BITS.items()}


def product_named(name: str) -> Product | None:
    """The product line that a certificate's productName is of, whatever stepping it names; None if unknown here.

    Milan-B0 is Milan. Bergamo and Siena are of Genoa's line, under whose keys they hang (AMD 57230, section 1).
    """
    return _NAMES.get(name.partition("-")[0])


def product_of(family: int, model: int) -> Product | None:
    """The product line of a processor, from its combined CPUID family and model; None if unknown here."""
    for known_family, models, product in _MODELS:
        if family == known_family and model in models:
            return product
    return None
