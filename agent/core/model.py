"""The nouns of the field, frozen. No I/O, no cryptography."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Never, Self

from agent.core.errors import FormatError, SecretError

REPORT_DATA_SIZE = 64
"""Bytes of REPORT_DATA on both platforms (AMD 56860 table 22; Intel TDX module base spec, TDREPORT)."""

_NONCE = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Tee(StrEnum):
    """The value is the attestation service's ``tee-type``."""

    SNP = "amd-sev-snp"
    TDX = "intel-tdx"


@dataclass(frozen=True, slots=True)
class Nonce:
    """An attestation service's nonce: exactly 64 lower-case hex characters. Raises FormatError."""

    text: str

    def __post_init__(self) -> None:
        if not _NONCE.fullmatch(self.text):
            raise FormatError(
                "nonce is not 64 lower-case hex characters", record="nonce", got=f"{len(self.text)} characters"
            )


@dataclass(frozen=True, slots=True)
class ReportData:
    """64 bytes that only agent.core.binding makes: nobody else constructs one outside tests (invariant I2)."""

    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != REPORT_DATA_SIZE:
            raise FormatError(f"REPORT_DATA has {REPORT_DATA_SIZE} bytes, not {len(self.value)}", record="report_data")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the kernel gave: ``blob`` (SNP report or TDX quote) and ``auxblob`` (SNP host certificate table)."""

    tee: Tee
    blob: bytes
    auxblob: bytes = b""
    provider: str = ""


@dataclass(frozen=True, slots=True)
class Endorsements:
    """What the vendor says about the hardware. Untrusted until verified; order carries no meaning.

    ``certificates`` and ``crls`` are DER. ``tcb_info`` and ``qe_identity`` are the TDX JSON bodies exactly as
    served (Intel PCS API v4), empty where there are none.
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    tcb_info: bytes = b""
    qe_identity: bytes = b""

    def merged(self, other: Endorsements) -> Endorsements:
        """Both sets; where both have a JSON body, ours stays."""
        return Endorsements(
            tuple(dict.fromkeys(self.certificates + other.certificates)),
            tuple(dict.fromkeys(self.crls + other.crls)),
            self.tcb_info or other.tcb_info,
            self.qe_identity or other.qe_identity,
        )


@dataclass(frozen=True, slots=True)
class TrustAnchor:
    """A root, known by the SHA-256 of its SubjectPublicKeyInfo (32 bytes).

    ``genuine`` is True for the vendors' production roots only. Every decision made under another is marked.
    """

    name: str
    spki_sha256: bytes
    genuine: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered check of a verifier, in the order made."""

    number: int
    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verified:
    """Evidence that passed every check asked for.

    ``fields`` are the named values of the report (shapes as in docs/evidence.md), ``tcb_status`` is Intel's word or
    "n/a", ``revocation`` is "as of <RFC 3339>" or "not checked", ``not_after`` the earliest end of validity of what
    was used (None: nothing used has one). ``added_root`` True means: a root that somebody added, not a vendor's.
    """

    tee: Tee
    version: int
    report_data: bytes
    fields: Mapping[str, Any]
    root: TrustAnchor
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...] = ()
    tcb_status: str = "n/a"
    advisories: tuple[str, ...] = ()
    revocation: str = "not checked"
    not_after: datetime | None = None

    @property
    def added_root(self) -> bool:
        return not self.root.genuine


@dataclass(slots=True, eq=False)
class Secret:
    """Secret bytes in a buffer of their own: never printed, never copied by accident, wiped on exit.

    Python can't promise that no copy exists; short-lived processes are the other half (invariant I6).
    """

    _buffer: bytearray = field(repr=False)

    def __init__(self, value: bytes | bytearray) -> None:
        self._buffer = value if isinstance(value, bytearray) else bytearray(value)

    def reveal(self) -> bytearray:
        """The live buffer. Raises SecretError once wiped."""
        if not self._buffer:
            raise SecretError("this secret was wiped already")
        return self._buffer

    def wipe(self) -> None:
        for index in range(len(self._buffer)):
            self._buffer[index] = 0
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"Secret({len(self._buffer)} bytes)"

    def __reduce__(self) -> Never:
        raise SecretError("a secret is not to be pickled or copied")
