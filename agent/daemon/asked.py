"""What is asked of agent.daemon.batch: challenges, the key that is to answer them, the form of the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from sys import getsizeof
from typing import Any, Protocol

from agent.core.bundle import Attachments, Bundle, Payload
from agent.core.challenge import Leaf
from agent.core.statement import Statement

LEAF_OVERHEAD = 512
"""Bytes of memory that a waiting challenge takes beside its texts and claims, roughly."""

Sign = Callable[[bytes], bytes]
Form = Callable[[Bundle, Sign], bytes]
"""Makes the answer out of a draft: ``whole``, or what agent.daemon.formats.Means makes."""


class Signing(Protocol):
    """A key that signs bundles, as it was when the request came: the agent's own or a named one."""

    @property
    def attachments(self) -> Attachments: ...

    @property
    def statement(self) -> Statement: ...

    def valid(self, at: datetime) -> bool: ...

    def sign(self, data: bytes) -> bytes: ...


class Holder(Protocol):
    """Has a request's key."""

    async def current(self) -> Signing:
        """The key with evidence in force, renewed first where it is not. Raises what keeps it from being so."""
        ...

    def require(self) -> None:
        """Raises UsageError (``usage.key``) when the key was destroyed meanwhile."""
        ...


@dataclass(frozen=True, slots=True)
class Challenge:
    """One leaf's worth. ``caller`` is what the kernel says of who asks, ``claims`` what it says itself.

    ``size`` is what it takes in memory, roughly, in bytes.
    """

    nonce: bytes
    payload: Payload
    context: str
    audience: str
    caller: Mapping[str, Any]
    claims: Mapping[str, Any]
    size: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        size = LEAF_OVERHEAD + len(self.context) + len(self.audience) + weight(self.claims)
        object.__setattr__(self, "size", size)

    def leaf(self, random: bytes, key: Signing) -> Leaf:
        return Leaf(
            random,
            self.nonce,
            self.payload.digest,
            self.context,
            self.audience,
            key.attachments.key_sha256,
            key.statement.digest(),
            self.caller,
            self.claims,
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its challenges are in one tree, signed by one key, answered together in ``form``."""

    holder: Holder
    challenges: Sequence[Challenge]
    uid: int
    form: Form


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers in the order of the challenges; ``attachments`` are the key under the batch's evidence."""

    attachments: Attachments
    documents: Sequence[bytes]


def weight(value: Any) -> int:
    """Bytes of memory that a JSON value takes, roughly: many small ones take twenty times what they are written in."""
    size = getsizeof(value)
    if isinstance(value, dict):
        size += sum(getsizeof(name) + weight(item) for name, item in value.items())
    elif isinstance(value, list):
        size += sum(map(weight, value))
    return size


def whole(draft: Bundle, sign: Sign) -> bytes:
    """A bundle with everything in it."""
    return draft.signed(sign(draft.signing_input())).encode()
