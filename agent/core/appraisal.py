"""Named values of evidence as a tree that policies can address, under our names and under the public service's.

A node has a value, children, or both (SNP's ``policy`` is a 64-bit word and a set of bits). Values keep their kind:
bool, int, text, Octets (hex in file order) and Word (a number shown as "0x..."), for rules compare like with like.
Sources: AMD 56860 (guest policy, PLATFORM_INFO), Intel TDX DCAP quoting library API (quote), Intel TDX module base
specification (ATTRIBUTES, XFAM; the latter by the names of the XSAVE components in Intel's SDM volume 1, chapter 13),
the service's attributes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
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


Maker = Callable[[Mapping[str, Any]], Node | None]
"""Makes a node from all fields; None where what it is made of is not there."""


class _Fields(Mapping[str, Node]):
    """Nodes that are made when asked for: a policy names few of a hundred, and a service judges many a second."""

    def __init__(self, fields: Mapping[str, Any], makers: Mapping[str, Maker]) -> None:
        self._fields, self._makers = fields, makers
        self._made: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Node:
        if name not in self._made:
            maker, value = self._makers.get(name), self._fields.get(name)
            made = maker(self._fields) if maker else None if value is None else node(value)
            if made is None:
                raise KeyError(name)
            self._made[name] = made
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in dict.fromkeys((*self._fields, *self._makers)) if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def tree(fields: Mapping[str, Any]) -> Node:
    """Everything that a policy may name, from the fields of a report or quote."""
    makers = _SNP if "measurement" in fields else _TDX if "mr_td" in fields else {}
    return Node(children=_Fields(fields, makers))


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


def _guest_policy(fields: Mapping[str, Any]) -> Node | None:
    word = _word(fields, "policy")
    if word is None:
        return None
    abi = {"abi_minor": Node(word & 0xFF), "abi_major": Node(word >> 8 & 0xFF)}
    return Node(Word(word), {**abi, **_bits(word, _GUEST_POLICY_BITS)})


def _platform_info(fields: Mapping[str, Any]) -> Node | None:
    word = _word(fields, "platform_info")
    return None if word is None else Node(Word(word), _bits(word, _PLATFORM_BITS))


def _key_info(fields: Mapping[str, Any]) -> Node | None:
    word = _word(fields, "key_flags_raw")
    if word is None:
        return None
    children = {**_bits(word, {"author_key_en": 0, "mask_chip_key": 1}), "signing_key": Node(word >> 2 & 7)}
    return Node(Word(word), children)


def _cpuid(fields: Mapping[str, Any]) -> Node | None:
    found = fields.get("cpuid")
    if not isinstance(found, Mapping):
        return None
    children = node(found).children
    also = {f"{name}_id": children[name] for name in ("family", "model") if name in children}
    return Node(None, {**children, **also})


def _octets_with_bits(name: str, names: Mapping[str, int]) -> Maker:
    def make(fields: Mapping[str, Any]) -> Node | None:
        """Eight bytes in file order, and the bits of the little-endian number that they are."""
        if fields.get(name) is None:
            return None
        found = node(fields[name])
        if not isinstance(found.value, Octets) or len(found.value.value) != 8:
            return found
        return Node(found.value, _bits(int.from_bytes(found.value.value, "little"), names))

    return make


def _body(fields: Mapping[str, Any]) -> Node:
    return Node(None, _Fields({name: fields[name] for name in _BODY_NAMES if name in fields}, _TDX_BITS))


def _signature_data(fields: Mapping[str, Any]) -> Node | None:
    found = fields.get("qe")
    if not isinstance(found, Mapping):
        return None
    children = node(found).children
    report = Node(None, {name: children[ours] for name, ours in _QE_NAMES.items() if ours in children})
    return Node(None, {"qe_cert_data": Node(None, {"qe_report": report})})


def _word(fields: Mapping[str, Any], name: str) -> int | None:
    value = node(fields.get(name)).value
    return value.value if isinstance(value, Word) else None


def _bits(word: int, names: Mapping[str, int]) -> dict[str, Node]:
    return {name: Node(bool(word >> bit & 1)) for name, bit in names.items()}


_SNP: Mapping[str, Maker] = {
    "policy": _guest_policy,
    "platform_info": _platform_info,
    "key_info": _key_info,
    "cpuid": _cpuid,
}
_TDX_BITS: Mapping[str, Maker] = {
    "td_attributes": _octets_with_bits("td_attributes", _TD_ATTRIBUTE_BITS),
    "xfam": _octets_with_bits("xfam", _XFAM_BITS),
}
_TDX: Mapping[str, Maker] = {**_TDX_BITS, "body": _body, "signature_data": _signature_data}
