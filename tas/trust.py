"""What the service believes in: the vendors' roots, roots that an admin added, and endorsements from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.core.model import TrustAnchor
from agent.core.policy import Policy
from agent.verify.evidence import anchor_from_pem, genuine_anchors
from agent.verify.policysign import PolicyKey, load_keys
from agent.verify.shelf import Shelf
from tas.state import State, read_file
from tdx.pcs import Update


@dataclass(frozen=True, slots=True)
class Sources:
    """Where trust comes from, as named on the command line.

    ``unchecked_revocation``: believe evidence that no CRL speaks about. Off, since that is failing open.
    ``policy_trust``: keys that policies must be signed by; with none, signatures are not looked at.
    """

    trust_roots: tuple[Path, ...] = ()
    endorsements: Path | None = None
    unchecked_revocation: bool = False
    policy_trust: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Material:
    """One consistent set, replaced as a whole on reload. ``shelf`` is for any number of chips and platforms."""

    anchors: tuple[TrustAnchor, ...]
    shelf: Shelf
    api_key: bytes
    unchecked_revocation: bool = False
    policy_keys: tuple[PolicyKey, ...] = ()


def load(state: State, sources: Sources) -> Material:
    """Read everything anew. Raises ConfigError or FormatError naming the file, or what is ambiguous."""
    shelf = Shelf.load(sources.endorsements) if sources.endorsements else Shelf()
    keys = load_keys(sources.policy_trust)
    return Material(anchors(sources.trust_roots), shelf, state.read_api_key(), sources.unchecked_revocation, keys)


def anchors(added: tuple[Path, ...]) -> tuple[TrustAnchor, ...]:
    """The genuine roots, then the added ones by their file's name. An added root is never genuine."""
    return genuine_anchors() + tuple(anchor_from_pem(read_file(path), path.name) for path in added)


def update_of(policy: Policy) -> Update:
    """Which of Intel's statements a policy's `tcb` rule wants: standard, unless it says early."""
    rule = policy.rules.get("tcb")
    early = isinstance(rule, Mapping) and rule.get("update") == Update.EARLY
    return Update.EARLY if early else Update.STANDARD
