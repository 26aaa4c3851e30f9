"""Good samples of every format, made by the simulator when asked for: nothing genuine, nothing stored."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.core.model import Endorsements
from sim.keys import State
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave
from snp.words import Product
from tests.support.bundles import Signer

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
"""The instant for which samples are made and judged, so that a kept input means the same on every day."""
REPORT_DATA = bytes(range(64))
_LENGTH = struct.Struct(">I")


def join(*parts: bytes) -> bytes:
    """Several inputs as one: each behind its length."""
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def split(data: bytes, most: int = 12) -> list[bytes]:
    """The parts of any bytes at all: a length that is too large takes what is left."""
    parts: list[bytes] = []
    while data and len(parts) < most:
        size = int.from_bytes(data[:4], "big")
        parts.append(data[4 : 4 + size])
        data = data[4 + size :]
    return parts


def packed(blob: bytes, vendor: Endorsements) -> bytes:
    """Evidence and all that goes with it, as one input."""
    bodies = [body for body in (vendor.tcb_info, vendor.qe_identity) if body]
    return join(blob, *bodies, *vendor.certificates, *vendor.crls)


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Samples:
    """``folder`` keeps the simulator's keys, for RSA-4096 takes seconds."""

    def __init__(self, folder: Path) -> None:
        self._state = State(folder)

    def _chip(self, product: Product, version: int, **options: Any) -> SecureProcessor:
        return SecureProcessor(self._state, GuestOptions(version=version, product=product, **options), AT)

    @cached_property
    def chips(self) -> tuple[SecureProcessor, ...]:
        return (self._chip(Product.MILAN, 2), self._chip(Product.GENOA, 3), self._chip(Product.TURIN, 5))

    @cached_property
    def domain(self) -> QuotingEnclave:
        return QuotingEnclave(self._state, DomainOptions(), AT)

    @cached_property
    def reports(self) -> list[bytes]:
        return [chip.report(REPORT_DATA, 0).outblob for chip in self.chips]

    @cached_property
    def tables(self) -> list[bytes]:
        return [chip.report(REPORT_DATA, 0).auxblob for chip in self.chips]

    @cached_property
    def quote(self) -> bytes:
        """Version 4, without its padding."""
        return self.domain.report(REPORT_DATA).outblob.rstrip(b"\0") + b"\0"

    @cached_property
    def signers(self) -> tuple[Signer, Signer]:
        return Signer.on(self.chips[1], AT), Signer.on(self.domain, AT)

    def certificates(self, *machines: SecureProcessor | QuotingEnclave) -> Iterable[bytes]:
        for machine in machines:
            yield from machine.endorsements().certificates
