"""Attachments by their digest, for those who hold compact bundles: what the keys have now, and what was named lately.

In memory and bounded: of one key's the newest MAX_EACH (a batch of challenges has attachments of its own), and over
all MAX_ALL and MAX_BYTES, where the namespace with the most gives way, of its key with the most: many keys are no
larger a share. What the vendor says is kept once, however often.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.core import attachdoc
from agent.core.bundle_parts import Attachments

MAX_EACH, MAX_ALL = 256, 1024
MAX_BYTES = 16 << 20
AGENT = ""
"""The agent's own key's name here, as agent.core.access.Wish has it."""

Current = Callable[[], Iterable[tuple[str, Attachments]]]
"""Every key that there is, as NAMESPACE/NAME or AGENT, with the attachments it has now."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whose they are, and the document."""

    key: str
    document: bytes


class Kept:
    """The store; for the event loop's thread."""

    def __init__(self, current: Current) -> None:
        self._current = current
        self._kept: OrderedDict[bytes, tuple[str, dict[str, bytes]]] = OrderedDict()
        self._each: Counter[str] = Counter()
        self._pool: dict[bytes, tuple[bytes, int]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """What is kept, in bytes: each member once."""
        return self._size

    def keep(self, attachments: Attachments, key: str = AGENT) -> None:
        """These were named to a caller, by a signature of ``key``: they can be asked for from now on."""
        digest = attachments.digest
        if digest in self._kept:
            self._kept.move_to_end(digest)
            return
        members = {name: self._pooled(value) for name, value in attachments.members.items()}
        self._kept[digest] = (key, members)
        self._each[key] += 1
        if self._each[key] > MAX_EACH:
            self._drop_oldest(key)
        while len(self._kept) > MAX_ALL or self._size > MAX_BYTES:
            self._drop_oldest(self._fullest())

    def find(self, digest: bytes) -> Found | None:
        """The attachments of this digest, or None."""
        if kept := self._kept.get(digest):
            return Found(kept[0], attachdoc.document(kept[1]))
        for key, attachments in self._current():
            if attachments.digest == digest:
                return Found(key, attachdoc.build(attachments))
        return None

    def _fullest(self) -> str:
        """The key that gives way."""
        shares = Counter[str]()
        for key, count in self._each.items():
            shares[_namespace(key)] += count
        most = shares.most_common(1)[0][0]
        return max((key for key in self._each if _namespace(key) == most), key=lambda key: self._each[key])

    def _drop_oldest(self, key: str) -> None:
        digest = next(digest for digest, (whose, _) in self._kept.items() if whose == key)
        _, members = self._kept.pop(digest)
        self._each[key] -= 1
        if not self._each[key]:
            del self._each[key]
        for value in members.values():
            self._unpool(value)

    def _pooled(self, value: bytes) -> bytes:
        known, uses = self._pool.get(value, (value, 0))
        self._pool[known] = (known, uses + 1)
        self._size += 0 if uses else len(value)
        return known

    def _unpool(self, value: bytes) -> None:
        known, uses = self._pool.pop(value)
        if uses > 1:
            self._pool[known] = (known, uses - 1)
        else:
            self._size -= len(value)


def _namespace(key: str) -> str:
    """ "" for the agent's own key, which is everybody's."""
    return key.partition("/")[0]
