"""What a folder of endorsements holds, one row for each statement: what it is, for whom, and when it ends.

Nothing is verified here: a row says what a file says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import snp.certs
import tdx.certs
from agent.core.canonical import rfc3339
from agent.core.errors import ChainInvalid, FormatError
from agent.core.x509 import Certificate, Crl, common_name
from agent.verify.endorsements import Bounds, contents
from agent.verify.shelf import SHELF

SOON = timedelta(days=5)
"""Before its end a statement is called to mind."""


@dataclass(frozen=True, slots=True)
class Row:
    """``file`` is relative to the folder; times are None where they can't be read."""

    file: str
    kind: str
    about: str
    starts: datetime | None = None
    ends: datetime | None = None

    def state(self, at: datetime) -> str:
        """unreadable, future, expired, ends soon, or good."""
        if self.starts is None or self.ends is None:
            return "unreadable"
        if at < self.starts:
            return "future"
        if at > self.ends:
            return "expired"
        return "ends soon" if self.ends - at < SOON else "good"

    def to_json(self, at: datetime) -> dict[str, Any]:
        starts, ends = (rfc3339(time) if time else None for time in (self.starts, self.ends))
        words = {"file": self.file, "kind": self.kind, "about": self.about}
        return words | {"starts": starts, "ends": ends, "state": self.state(at)}


def inventory(folder: Path, bounds: Bounds = SHELF) -> tuple[Row, ...]:
    """A row for each statement below ``folder``. Raises UsageError, FormatError, Oversized as reading a folder does."""
    rows = []
    for file, kind, content in contents(folder, bounds):
        rows.append(_ROWS[kind](file.relative_to(folder).as_posix(), content))
    return tuple(rows)


def warnings(rows: Iterable[Row], at: datetime) -> list[str]:
    """In words what is unreadable, not yet good, expired or ends soon."""
    found = []
    for row in rows:
        state = row.state(at)
        if state != "good":
            when = f" ({row.ends:%Y-%m-%d})" if row.ends and state in ("expired", "ends soon") else ""
            found.append(f"{row.file}: {row.kind} {row.about}".rstrip() + f": {state}{when}")
    return found


def _certificate(file: str, der: bytes) -> Row:
    try:
        return _amd(file, snp.certs.parse_certificate(der))
    except FormatError:
        pass
    try:
        found: Certificate = tdx.certs.load_certificate(der, "certificate")
    except ChainInvalid as error:
        return Row(file, "certificate", error.message)
    return Row(file, "certificate", found.common_name, found.not_before, found.not_after)


def _amd(file: str, found: Certificate) -> Row:
    kind, about = "certificate", found.common_name
    if about in ("SEV-VCEK", "SEV-VLEK"):
        values = snp.certs.leaf_values(found)
        spls = " ".join(f"{name} {value}" for name, value in values.spls.items() if not name.startswith("spl_"))
        who = values.csp_id or f"chip {values.hwid[:8].hex()}"
        kind, about = about.removeprefix("SEV-"), f"{values.product_name}, {who}, {spls}"
    return Row(file, kind, about, found.not_before, found.not_after)


def _crl(file: str, der: bytes) -> Row:
    found: Crl
    try:
        found = snp.certs.parse_crl(der)
    except FormatError:
        try:
            found = tdx.certs.load_crl(der)
        except ChainInvalid as error:
            return Row(file, "CRL", error.message)
    try:
        issuer = common_name(found.issuer)
    except FormatError as error:
        return Row(file, "CRL", error.message)
    return Row(file, "CRL", f"of {issuer}", found.this_update, found.next_update)


def _tcb_info(file: str, body: bytes) -> Row:
    return _statement(file, "TCB info", body, "tcbInfo", ("id", "fmspc"))


def _qe_identity(file: str, body: bytes) -> Row:
    return _statement(file, "QE identity", body, "enclaveIdentity", ("id",))


def _statement(file: str, kind: str, body: bytes, name: str, words: tuple[str, ...]) -> Row:
    inner: Any = json.loads(body)[name]
    said = inner if isinstance(inner, dict) else {}
    about = " ".join(value[:64] for word in words if isinstance(value := said.get(word), str) and value.isprintable())
    number = said.get("tcbEvaluationDataNumber")
    about += f" evaluation {number}" if type(number) is int and 0 <= number < 10**6 else ""
    return Row(file, kind, about, _time(said.get("issueDate")), _time(said.get("nextUpdate")))


def _time(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


_ROWS = {"certificate": _certificate, "crl": _crl, "tcbInfo": _tcb_info, "enclaveIdentity": _qe_identity}
