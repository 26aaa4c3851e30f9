"""Documents that hold attachments and nothing else: one reader and one writer for key documents and attachments.

Canonical JSON (RFC 8785) of ``endorsements``, ``evidence``, ``key``, ``statement`` and ``type``. Nothing here verifies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.core import canonical
from agent.core.bundle_parts import Attachments, read_attachments
from agent.core.errors import FormatError, UnsupportedVersion

_MEMBERS = ("endorsements", "evidence", "key", "statement")
"""In the order of RFC 8785; ``type`` follows."""
_KEYS = frozenset({*_MEMBERS, "type"})


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of them, at most ``limit`` bytes; ``name`` is what messages call it."""

    type: str
    name: str
    limit: int

    def write(self, members: Mapping[str, bytes]) -> bytes:
        """The document of ``Attachments.members``. Raises FormatError over the limit."""
        parts = [b'"%s":%s' % (name.encode(), members[name]) for name in _MEMBERS]
        data = b'{%s,"type":%s}' % (b",".join(parts), canonical.text(self.type))
        if len(data) > self.limit:
            raise FormatError(f"{self.name} of {len(data)} bytes, {self.limit} are allowed", record=self.name)
        return data

    def read(self, data: bytes) -> Attachments:
        """Strict: canonical, within the limit, exactly the known members. Raises FormatError, Oversized."""
        document = canonical.decode(data, self.name, self.limit)
        if document.get("type") != self.type:
            found = canonical.shown(str(document.get("type")))
            raise UnsupportedVersion(
                f"{self.name}: type is not {self.type}: {found}", record=self.name, expected=self.type
            )
        return read_attachments(canonical.Reader(document, self.name, _KEYS))
