"""What the service believes in: the vendors' roots, roots that an admin added, and endorsements from a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.core.model import Endorsements, TrustAnchor
from agent.verify.endorsements import load_folder
from agent.verify.evidence import anchor_from_pem, genuine_anchors
from agent.verify.policysign import PolicyKey, load_keys
from tas.state import State, read_file


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
    """One consistent set, replaced as a whole on reload."""

    anchors: tuple[TrustAnchor, ...]
    endorsements: Endorsements
    api_key: bytes
    unchecked_revocation: bool = False
    policy_keys: tuple[PolicyKey, ...] = ()


def load(state: State, sources: Sources) -> Material:
    """Read everything anew. Raises ConfigError or FormatError naming the file."""
    folder = load_folder(sources.endorsements) if sources.endorsements else Endorsements()
    keys = load_keys(sources.policy_trust)
    return Material(anchors(sources.trust_roots), folder, state.read_api_key(), sources.unchecked_revocation, keys)


def anchors(added: tuple[Path, ...]) -> tuple[TrustAnchor, ...]:
    """The genuine roots, then the added ones by their file's name. An added root is never genuine."""
    return genuine_anchors() + tuple(anchor_from_pem(read_file(path), path.name) for path in added)
