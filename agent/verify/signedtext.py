"""Verdicts on keys, JWS, COSE_Sign1, EAT and ssh signatures for people, in the manner of agent.verify.text."""

from __future__ import annotations

from collections.abc import Iterator

from agent.core.canonical import shown
from agent.verify.signed import KeyVerdict
from agent.verify.text import check_lines, evidence_lines, not_checked_lines, row, statement_lines

_TEXTS = ("typ", "content_type", "context", "audience", "form", "profile", "nonce", "issued", "expires", "ssh")


def key_lines(verdict: KeyVerdict, compared_with: str) -> Iterator[str]:
    """The verdict; ``compared_with`` names the payload's file, "" for none."""
    key, statement, said = verdict.attachments, verdict.attachments.statement, verdict.said
    if payload := said.get("payload"):
        same = f"same as {shown(compared_with)}" if compared_with else "not compared"
        yield row("payload", f"{payload['algorithm']}:{payload['digest']}, {payload['size']} bytes, {same}")
    for name in _TEXTS:
        if name in said:
            yield row(name.replace("_", " "), shown(str(said[name]), 256))
    yield row("key", f"{key.algorithm.name} sha256:{key.key_sha256.hex()}")
    yield row("", f"for {statement.use}, of {shown(statement.owner, 256)}, audience {shown(statement.audience, 256)}")
    yield from statement_lines(statement)
    yield from evidence_lines(verdict.verified)
    yield from check_lines(verdict.checks)
    yield from not_checked_lines(verdict.not_checked)
