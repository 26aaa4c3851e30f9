"""Named values of evidence as a tree that policies can address, under our names and under the public service's.

A node has a value, children, or both (SNP's ``policy`` is a 64-bit word and a set of bits). Values keep their kind:
bool, int, text, Octets (hex in file order) and Word (a number shown as "0x..."), for rules compare like with like.
Sources: AMD 56860 (guest policy, PLATFORM_INFO), Intel TDX DCAP quoting library API (quote), Intel TDX module base
specification (ATTRIBUTES, XFAM; the latter by the names of the XSAVE components in Intel's SDM volume 1, chapter 13),
the service's attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OCTETS = re.compile(r"(?:[0-9a-f]{2})+", re.ASCII)
_WORD = re.compile(r"0x[0-9a-f]{1,16}", re.ASCII)
_VERSION = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,3})", re.ASCII)

_GUEST_POLICY_BITS = {
    "smt_allowed": 16,
    "migrate_ma_allowed": 18,
    "debug_allowed": 19,
    "single_socket_required": 20,
    "cxl_allowed": 21,
    "mem_aes_256_xts": 22,
    "rapl_dis": 23,
    "ciphertext_hiding": 24,
    "page_swap_disable": 25,
}
_PLATFORM_BITS = {
    "smt_enabled": 0,
    "tsme_enabled": 1,
    "ecc_enabled": 2,
    "rapl_disabled": 3,
    "ciphertext_hiding_enabled": 4,
    "alias_check_complete": 5,
    "tio_enabled": 7,
}
_TD_ATTRIBUTE_BITS = {
    "debug": 0,
    "hgs_plus_prof": 4,
    "perf_prof": 5,
    "pmt_prof": 6,
    "icssd": 16,
    "lass": 27,
    "sept_ve_disable": 28,
    "migratable": 29,
    "pks": 30,
    "kl": 31,
    "tpa": 62,
    "perfmon": 63,
}
_XFAM_BITS = {
    "fp": 0,
    "sse": 1,
    "avx": 2,
    "mpx_bndregs": 3,
    "mpx_bndcsr": 4,
    "avx512_opmask": 5,
    "avx512_zmm_hi256": 6,
    "avx512_hi16_zmm": 7,
    "pt": 8,
    "pku": 9,
    "pasid": 10,
    "cet_user": 11,
    "cet_supervisor": 12,
    "hdc": 13,
    "uintr": 14,
    "lbr": 15,
    "hwp": 16,
    "amx_tilecfg": 17,
    "amx_tiledata": 18,
    "apx": 19,
}
_QE_NAMES = {
    "cpu_svn": "cpusvn",
    "misc_select": "miscselect",
    "attributes": "attributes",
    "mr_enclave": "mrenclave",
    "mr_signer": "mrsigner",
    "isv_prod_id": "isvprodid",
    "isv_svn": "isvsvn",
}
_BODY_NAMES = (
    "tee_tcb_svn",
    "mr_seam",
    "mr_signer_seam",
    "seam_attributes",
    "td_attributes",
    "xfam",
    "mr_td",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "report_data",
    "tee_tcb_svn_2",
    "mr_service_td",
)


@dataclass(frozen=True, slots=True)
class Octets:
    """Bytes, in file order."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Word:
    """A number that is shown as hex."""

    value: int


Scalar = bool | int | str | Octets | Word


@dataclass(frozen=True, slots=True)
class Node:
    """``value`` is None where there are only children."""

    value: Scalar | None = None
    children: Mapping[str, Node] = field(default_factory=dict)

    def find(self, path: str) -> Node | None:
        """The node at a dotted path."""
        node: Node | None = self
        for name in path.split("."):
            node = node.children.get(name) if node else None
        return node


def tree(fields: Mapping[str, Any]) -> Node:
    """Everything that a policy may name, from the fields of a report or quote."""
    nodes = {name: node(value) for name, value in fields.items() if value is not None}
    if "measurement" in nodes:
        nodes.update(_snp(nodes))
    elif "mr_td" in nodes:
        nodes.update(_tdx(nodes))
    return Node(children=nodes)


def node(value: Any) -> Node:
    """One value, whatever stands below it."""
    if isinstance(value, Mapping):
        children = {str(name): node(item) for name, item in value.items() if item is not None}
        raw = children.get("raw")
        return Node(raw.value if raw else None, children)
    if isinstance(value, str):
        return _text(value)
    return Node(value if isinstance(value, int) else None)


def _text(value: str) -> Node:
    if _WORD.fullmatch(value):
        return Node(Word(int(value, 16)))
    if _OCTETS.fullmatch(value):
        return Node(Octets(bytes.fromhex(value)))
    if match := _VERSION.fullmatch(value):
        parts = zip(("major", "minor", "build"), match.groups(), strict=True)
        return Node(value, {name: Node(int(number)) for name, number in parts})
    return Node(value)


def _snp(nodes: Mapping[str, Node]) -> dict[str, Node]:
    extra: dict[str, Node] = {}
    policy, platform, flags = (_number(nodes, name) for name in ("policy", "platform_info", "key_flags_raw"))
    if policy is not None:
        abi = {"abi_minor": Node(policy & 0xFF), "abi_major": Node(policy >> 8 & 0xFF)}
        extra["policy"] = Node(Word(policy), {**abi, **_bits(policy, _GUEST_POLICY_BITS)})
    if platform is not None:
        extra["platform_info"] = Node(Word(platform), _bits(platform, _PLATFORM_BITS))
    if flags is not None:
        children = {**_bits(flags, {"author_key_en": 0, "mask_chip_key": 1}), "signing_key": Node(flags >> 2 & 7)}
        extra["key_info"] = Node(Word(flags), children)
    if "cpuid" in nodes:
        cpuid = dict(nodes["cpuid"].children)
        also = {f"{name}_id": cpuid[name] for name in ("family", "model") if name in cpuid}
        extra["cpuid"] = Node(None, {**cpuid, **also})
    return extra


def _tdx(nodes: Mapping[str, Node]) -> dict[str, Node]:
    extra = {
        name: _with_bits(nodes[name], bits)
        for name, bits in (("td_attributes", _TD_ATTRIBUTE_BITS), ("xfam", _XFAM_BITS))
        if name in nodes
    }
    body = {**nodes, **extra}
    extra["body"] = Node(None, {name: body[name] for name in _BODY_NAMES if name in body})
    if "qe" in nodes:
        found = nodes["qe"].children
        report = Node(None, {name: found[ours] for name, ours in _QE_NAMES.items() if ours in found})
        extra["signature_data"] = Node(None, {"qe_cert_data": Node(None, {"qe_report": report})})
    return extra


def _number(nodes: Mapping[str, Node], name: str) -> int | None:
    value = nodes[name].value if name in nodes else None
    return value.value if isinstance(value, Word) else None


def _with_bits(found: Node, names: Mapping[str, int]) -> Node:
    """Eight bytes in file order, and the bits of the little-endian number that they are."""
    if not isinstance(found.value, Octets) or len(found.value.value) != 8:
        return found
    return Node(found.value, _bits(int.from_bytes(found.value.value, "little"), names))


def _bits(word: int, names: Mapping[str, int]) -> dict[str, Node]:
    return {name: Node(bool(word >> bit & 1)) for name, bit in names.items()}
