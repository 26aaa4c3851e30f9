"""Verdicts for people: what was found, what was checked, and, as plainly, what was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.core.canonical import printable, rfc3339, shown
from agent.core.model import Check, Verified
from agent.core.statement import MEMORY, Statement
from agent.verify.bundle import BundleVerdict


def bundle_lines(verdict: BundleVerdict, compared_with: str) -> Iterator[str]:
    """The verdict on a bundle; ``compared_with`` names the payload's file, "" for none."""
    bundle, statement = verdict.bundle, verdict.bundle.attachments.statement
    same = f"same as {shown(compared_with)}" if compared_with else "not compared"
    yield row("payload", f"sha-512:{bundle.payload.digest.hex()}, {bundle.payload.size} bytes, {same}")
    yield row("context", shown(bundle.context, 256))
    yield row("audience", shown(bundle.audience, 256))
    yield row("key", f"sha256:{bundle.attachments.key_sha256.hex()}")
    yield row("", f"for {statement.use}, of {shown(statement.owner, 256)}, audience {shown(statement.audience, 256)}")
    yield from statement_lines(statement)
    if bundle.fresh:
        yield row("fresh", f"answers nonce {bundle.fresh.nonce.hex()}")
    yield from evidence_lines(verdict.verified)
    yield from check_lines(verdict.checks)
    yield from not_checked_lines(verdict.not_checked)


_STORAGE = {
    MEMORY: "in memory, of this boot only",
    "tas": "sealed on disk under a root of the attestation service: whoever has both has the key",
    "snp-derived": "sealed on disk under a key of the chip for this measurement: it outlives the boot",
}


def statement_lines(statement: Statement) -> Iterator[str]:
    """Where the key is kept, when it is in force, on which boot, and where the audit log stood when it was made."""
    yield row("", f"kept ({statement.storage}) {_STORAGE[statement.storage]}")
    times = f"{rfc3339(statement.created)} to {rfc3339(statement.expires)}"
    yield row("statement", f"{times} by the {statement.time_source}'s clock, boot {statement.boot_id}")
    if statement.audit:
        yield row("", f"audit log up to record {statement.audit.seq}, head {statement.audit.head}")


def evidence_lines(verified: Verified) -> Iterator[str]:
    """Evidence that passed."""
    yield row("evidence", f"{verified.tee}, version {verified.version}")
    for name in ("measurement", "mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        if name in verified.fields:
            yield row("", f"{name} {verified.fields[name]}")
    yield row("root", root_text(verified))
    if verified.tcb_status != "n/a":
        advisories = f" ({', '.join(verified.advisories)})" if verified.advisories else ""
        yield row("tcb status", f"{verified.tcb_status}{advisories}")
    yield row("revocation", verified.revocation)


def root_text(verified: Verified) -> str:
    """The root, marked when it is not a vendor's."""
    if verified.added_root:
        return f"ADDED ROOT {shown(verified.root.name)}: trusted because you said so, not a vendor's root"
    return f"{verified.root.name} (the vendor's)"


def check_lines(checks: Sequence[Check]) -> Iterator[str]:
    """Every check made, numbered."""
    yield "checked:"
    for check in checks:
        detail = f": {check.detail}" if check.detail else ""
        yield f"  {check.number:>3}. {'ok  ' if check.ok else 'FAIL'} {check.name}{printable(detail)}"


def not_checked_lines(not_checked: Sequence[str]) -> Iterator[str]:
    """What nobody looked at."""
    if not_checked:
        yield "not checked:"
    yield from (f"  - {printable(what)}" for what in not_checked)


def row(name: str, text: str) -> str:
    """One labelled line; without a label it goes on with the line above."""
    text = printable(text)
    return f"{name}: {text}" if name else f"  {text}"
