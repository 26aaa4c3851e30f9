"""What verifiers found, as JSON for people's programs (docs/bundle.md has the members)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.core.bundle import Fresh
from agent.core.canonical import rfc3339
from agent.core.errors import TeeAgentError, VerificationError
from agent.core.model import Check, Verified


def fresh_json(fresh: Fresh | None) -> dict[str, Any] | None:
    """The part of a fresh proof that says something; the proof itself is in the bundle."""
    if fresh is None:
        return None
    kept = ("nonce", "caller", "claims_unverified")
    return {name: value for name, value in fresh.to_json().items() if name in kept}


def verified_json(verified: Verified) -> dict[str, Any]:
    """Evidence that passed, as JSON."""
    return {
        "tee": verified.tee.value,
        "version": verified.version,
        "root": {"name": verified.root.name, "sha256": verified.root.spki_sha256.hex(), "added": verified.added_root},
        "tcb_status": verified.tcb_status,
        "advisories": list(verified.advisories),
        "revocation": verified.revocation,
        "not_after": rfc3339(verified.not_after) if verified.not_after else None,
        "fields": dict(verified.fields),
    }


def checks_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Checks as JSON."""
    return [{"number": c.number, "name": c.name, "ok": c.ok, "detail": c.detail} for c in checks]


def failure_json(error: TeeAgentError) -> dict[str, Any]:
    """A refusal as JSON: the checks made, the failed one last, and the error."""
    checks = error.checks if isinstance(error, VerificationError) else ()
    return {
        "valid": False,
        "checks": checks_json(checks),
        "error": {"code": error.code, "message": error.message, "hint": error.hint},
    }
