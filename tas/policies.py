"""Stored policies: what may be put, and what a stored one says."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from agent.core.errors import FormatError, TeeAgentError
from agent.core.policy import Policy
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
def parse(document: str) -> Policy:
    """A policy whose ids can be stored. Raises FormatError (code "format.policy"), Oversized."""
    policy = Policy.from_bytes(document.encode())
    if not (valid_id(policy.policy_id) and valid_id(policy.key_id)):
        raise FormatError(
            "policy: policy_id and key_id have 1 to 128 of A-Z a-z 0-9 _ . -", record="policy", code="format.policy"
        )
    return policy


def summaries(store: Store) -> list[Summary]:
    """Every stored policy, usable or not."""
    known = {info.key_id for info in store.secrets()}
    return [_summary(item.policy_id, item.document, item.stored, known) for item in store.policies()]


def _summary(policy_id: str, document: str, stored: str, known: set[str]) -> Summary:
    try:
        policy = parse(document)
    except TeeAgentError as exc:
        return Summary(policy_id, "", "", stored, exc.message)
    missing = "" if policy.key_id in known else f"there is no secret {policy.key_id!r}"
    return Summary(policy_id, policy.policy_type, policy.key_id, stored, missing)
