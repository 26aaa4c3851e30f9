"""A folder of endorsements for many machines: what belongs to one piece of evidence is picked when it is judged.

Certificates of AMD chips go by chip, Intel's TCB info by the quote's FMSPC, PCEID and by standard or early (as the
name of a folder above it says, "early" or "...-early"; standard otherwise). Two different statements for one platform
are refused when the folder is read: nothing here guesses. Picking believes nothing, the verifiers judge; where nothing
fits, what does not fit is handed over, so that the verifier refuses it by its own words instead of leaving it out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import snp.abi
import snp.certs
import tdx.certs
from agent.core.errors import ChainInvalid, FormatError, VerificationError
from agent.core.model import Endorsements
from agent.core.x509 import common_name
from agent.verify.endorsements import Bounds, contents
from snp.words import Product, tcb_parts
from tdx import pcs
from tdx.pcs import Update

SHELF = Bounds(files=32_768, total=64 << 20)
"""A service's folder may be for a large fleet; a chip's certificate has 1.4 KiB."""
FEW = 8
"""Certificates of chips that are handed over at the most, the likeliest first (snp.chain tries as many)."""
_TDX, _QE = "TDX", "TD_QE"
Bag = dict[bytes, None]
"""DER, each once, in the order found."""
Leaves = dict[bytes, snp.certs.LeafValues]
"""The same of chips' certificates, with what each says of its chip."""


@dataclass(frozen=True, slots=True)
class Statement:
    """TCB info (``fmspc`` and ``pceid`` in lower-case hex) or QE identity (both empty), as its JSON says itself."""

    body: bytes
    kind: str
    identity: str
    update: Update
    fmspc: str = ""
    pceid: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.kind, self.identity, self.update, self.fmspc, self.pceid)


@dataclass(slots=True)
class Shelf:
    """All of a folder, sorted once. Read-only after it is made: one shelf serves many threads."""

    chips: dict[bytes, Leaves] = field(default_factory=lambda: defaultdict(dict))
    """VCEKs by hwID; VLEKs, which name no chip, by b""."""
    amd: Bag = field(default_factory=dict)
    """Other certificates in AMD's form, and what can't be read: the verifier says so."""
    others: Bag = field(default_factory=dict)
    """Certificates that are not in AMD's form."""
    amd_crls: dict[str, Bag] = field(default_factory=lambda: defaultdict(dict))
    """By the issuer's common name."""
    crls: Bag = field(default_factory=dict)
    """Those that are not AMD's, and what can't be read."""
    statements: dict[tuple[str, ...], Statement] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, bounds: Bounds = SHELF) -> Shelf:
        """Everything of use below ``folder``. Raises UsageError (no folder), FormatError (ambiguous), Oversized."""
        shelf = cls()
        for file, kind, content in contents(folder, bounds):
            shelf._put(kind, content, file.relative_to(folder))
        return shelf

    @classmethod
    def of(cls, endorsements: Endorsements) -> Shelf:
        """One machine's set as a shelf."""
        shelf = cls()
        rows = [("certificate", der) for der in endorsements.certificates] + [("crl", der) for der in endorsements.crls]
        rows += [("tcbInfo", endorsements.tcb_info), ("enclaveIdentity", endorsements.qe_identity)]
        for kind, content in rows:
            if content:
                shelf._put(kind, content, PurePath(kind))
        return shelf

    def select(self, blob: bytes, update: str = Update.STANDARD) -> Endorsements:
        """What there is for this evidence; ``update`` says which of Intel's statements. Never raises."""
        try:
            report = snp.abi.parse(blob)
        except FormatError:
            return self._for_quote(blob, update)
        return self._for_report(report)

    def crl_count(self) -> int:
        return len(self.crls) + sum(map(len, self.amd_crls.values()))

    def certificate_count(self) -> int:
        return len(self.amd) + len(self.others) + sum(map(len, self.chips.values()))

    def _for_report(self, report: snp.abi.Report) -> Endorsements:
        size = 8 if report.product is Product.TURIN else len(report.chip_id)
        if report.signing_key == "VLEK":
            leaves = self.chips.get(b"", {})
        else:
            # A version 2 report may be Turin's and does not say it.
            leaves = self.chips.get(report.chip_id[:size]) or self.chips.get(report.chip_id[:8]) or self._any_chips()
        likeliest = sorted(leaves, key=lambda der: not _for_tcb(leaves[der], report))[:FEW]
        own = self.amd_crls.get(f"ARK-{report.product}")
        crls = own or [der for bag in self.amd_crls.values() for der in bag]
        unread = [der for der in self.crls if not _is_intel_crl(der)]
        return Endorsements((*likeliest, *self.amd), (*crls, *unread))

    def _any_chips(self) -> Leaves:
        return next((bag for hwid, bag in self.chips.items() if hwid), {})

    def _for_quote(self, blob: bytes, update: str) -> Endorsements:
        info = self._fitting("tcbInfo", _TDX, update, *_platform(blob))
        identity = self._fitting("enclaveIdentity", _QE, update, "", "")
        return Endorsements(tuple(self.others), tuple(self.crls), info, identity)

    def _fitting(self, *key: str) -> bytes:
        found = self.statements.get(key) or self._least_wrong(*key)
        return found.body if found else b""

    def _least_wrong(self, kind: str, identity: str, update: str, fmspc: str, _pceid: str) -> Statement | None:
        """The verifier refuses it; but never one of the other update, which it could not tell apart."""
        rows = [row for row in self.statements.values() if row.kind == kind and row.update == update]
        return min(rows, key=lambda row: (row.identity != identity, row.fmspc != fmspc, row.key), default=None)

    def _put(self, kind: str, content: bytes, where: PurePath) -> None:
        if kind == "certificate":
            self._put_certificate(content)
        elif kind == "crl":
            self._put_crl(content)
        else:
            row = _statement(kind, content, where)
            if self.statements.setdefault(row.key, row).body != content:
                what = f"{kind} {row.fmspc or row.identity} ({row.update})"
                raise FormatError(
                    f"two different statements of one kind: {what}, one of them {where}",
                    record=kind,
                    hint="leave the newer one; what is for early updates belongs in a folder named early",
                    code="format.ambiguous",
                )

    def _put_certificate(self, content: bytes) -> None:
        try:
            certificate = snp.certs.parse_certificate(content)
        except FormatError:
            self.others[content] = None
            if not _is_intel(content):
                self.amd[content] = None
            return
        if certificate.common_name in ("SEV-VCEK", "SEV-VLEK"):
            with suppress(FormatError):
                values = snp.certs.leaf_values(certificate)
                self.chips[values.hwid][content] = values
                return
        self.amd[content] = None

    def _put_crl(self, content: bytes) -> None:
        bag = self.crls
        with suppress(FormatError):
            bag = self.amd_crls[common_name(snp.certs.parse_crl(content).issuer)]
        bag[content] = None


def _statement(kind: str, content: bytes, where: PurePath) -> Statement:
    """What the JSON says of itself, unverified; empty words where it says nothing that could be meant."""
    said: Any = json.loads(content)[kind]

    def word(name: str) -> str:
        value = said.get(name) if isinstance(said, dict) else None
        return value[:64] if isinstance(value, str) else ""

    early = any(part == "early" or part.endswith("-early") for part in where.parts)
    update = Update.EARLY if early else Update.STANDARD
    return Statement(content, kind, word("id"), update, word("fmspc").lower(), word("pceId").lower())


def _platform(blob: bytes) -> tuple[str, str]:
    """FMSPC and PCEID of a quote, empty where it does not say."""
    try:
        target = pcs.target(blob)
    except (FormatError, VerificationError):
        return "", ""
    return target.fmspc.hex(), target.pceid.hex()


def _for_tcb(values: snp.certs.LeafValues, report: snp.abi.Report) -> bool:
    product = next((one for one in Product if values.product_name.startswith(one)), None)
    return tcb_parts(report.reported_tcb, product).items() <= values.spls.items()


def _is_intel(certificate: bytes) -> bool:
    try:
        tdx.certs.load_certificate(certificate, "certificate")
    except ChainInvalid:
        return False
    return True


def _is_intel_crl(crl: bytes) -> bool:
    try:
        tdx.certs.load_crl(crl)
    except ChainInvalid:
        return False
    return True
