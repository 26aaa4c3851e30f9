"""One challenge as a leaf of the Merkle tree that one quote covers (DESIGN.md section 4).

The hardware vouches for the agent, the agent for the leaf: ``caller`` is what the agent learned from its kernel,
``claims_unverified`` is what the caller said of itself and nobody checked. 32 random bytes per leaf keep the other
leaves of a batch from being guessed through a proof. Vectors: docs/vectors/merkle.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.core import canonical
from agent.core.binding import tagged
from agent.core.errors import FormatError

PURPOSE = "challenge-leaf"
NONCE_MIN, NONCE_MAX = 16, 64
"""Bytes of a caller's nonce."""
RANDOM_SIZE = 32
MAX_TEXT = 256
"""UTF-8 bytes of context and audience at the most."""
MAX_OBJECT = 4096
"""Bytes of canonical JSON of ``caller`` and of ``claims_unverified`` at the most."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """What one challenge binds: sizes in bytes are random 32, nonce 16 to 64, digests as said.

    ``payload_digest`` is SHA-512 (64) or empty where nothing was signed along; ``key_sha256`` is SHA-256 (32) of the
    SubjectPublicKeyInfo; ``statement_digest`` SHA-512 (64) of the key's statement. ``context`` and ``audience`` are
    the request's. Raises FormatError.
    """

    random: bytes
    nonce: bytes
    payload_digest: bytes
    context: str
    audience: str
    key_sha256: bytes
    statement_digest: bytes
    caller: Mapping[str, Any]
    claims_unverified: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _size("random bytes", self.random, RANDOM_SIZE)
        if not NONCE_MIN <= len(self.nonce) <= NONCE_MAX:
            raise FormatError(f"a nonce has 16 to 64 bytes, not {len(self.nonce)}", record=PURPOSE)
        if self.payload_digest:
            _size("payload digest", self.payload_digest, 64)
        _size("key digest", self.key_sha256, 32)
        _size("statement digest", self.statement_digest, 64)
        if not all(canonical.is_text(text, MAX_TEXT) for text in (self.context, self.audience)):
            raise FormatError(
                f"context and audience: {MAX_TEXT} bytes at the most, no control characters", record=PURPOSE
            )

    def encode(self) -> bytes:
        """The leaf: tag and purpose, then every field with its length, objects as canonical JSON (RFC 8785)."""
        return tagged(
            PURPOSE,
            self.random,
            self.nonce,
            self.payload_digest,
            self.context.encode(),
            self.audience.encode(),
            self.key_sha256,
            self.statement_digest,
            _object(self.caller),
            _object(self.claims_unverified),
        )


def _object(value: Mapping[str, Any]) -> bytes:
    data = canonical.encode(value)
    if len(data) > MAX_OBJECT:
        raise FormatError(f"{len(data)} bytes of JSON, {MAX_OBJECT} are allowed", record=PURPOSE)
    return data


def _size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise FormatError(f"{name}: {size} bytes are required, not {len(value)}", record=PURPOSE)
