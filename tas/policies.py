"""Stored policies: what may be put, what a stored one says, and whether a trusted key signed it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import FormatError, TeeAgentError, UsageError
from agent.core.policy import Policy
from agent.verify import policysign
from agent.verify.policysign import PolicyKey
from tas.store import Store, valid_id


@dataclass(frozen=True, slots=True)
class Summary:
    """One stored policy for a listing. ``problem`` says why it releases nothing, "" if it can."""

    policy_id: str
    policy_type: str
    key_id: str
    stored: str
    problem: str


@functools.lru_cache(maxsize=256)
def parse(document: str, keys: tuple[PolicyKey, ...] = ()) -> Policy:
    """A policy whose ids can be stored, signed by one of ``keys`` if there are any.

    Raises FormatError (code "format.policy"), Oversized, SignatureInvalid.
    """
    policy = Policy.from_bytes(document.encode())
    if not (valid_id(policy.policy_id) and valid_id(policy.key_id)):
        raise FormatError(
            "policy: policy_id and key_id have 1 to 128 of A-Z a-z 0-9 _ . -", record="policy", code="format.policy"
        )
    return policysign.verified(policy, keys) if keys else policy


def require_trust(found: Sequence[object], *, required: bool) -> None:
    """Raises UsageError where signatures are required and none could be told: an option that was lost gets noticed."""
    if required and not found:
        raise UsageError("--require-signed-policies needs --policy-trust: whose signatures?")


def known_keys(store: Store, places: Sequence[Path] = ()) -> tuple[PolicyKey, ...]:
    """The keys in ``places``; where none is named, those of the server's last start. Raises UsageError, FormatError."""
    named = [str(place) for place in places] or (store.serving() or {}).get("policy_trust", [])
    return policysign.load_keys([Path(place) for place in named])


def summaries(store: Store, keys: tuple[PolicyKey, ...] = ()) -> list[Summary]:
    """Every stored policy, usable or not; one that none of ``keys`` signed is not, if there are any."""
    known = {info.key_id for info in store.secrets()}
    return [_summary(item.policy_id, item.document, item.stored, known, keys) for item in store.policies()]


def _summary(policy_id: str, document: str, stored: str, known: set[str], keys: tuple[PolicyKey, ...]) -> Summary:
    try:
        policy = parse(document, keys)
    except TeeAgentError as exc:
        return Summary(policy_id, "", "", stored, exc.message)
    missing = "" if policy.key_id in known else f"there is no secret {policy.key_id!r}"
    return Summary(policy_id, policy.policy_type, policy.key_id, stored, missing)
