"""The typed door to evidence: one method per purpose, never 64 raw bytes (DESIGN.md, I2 and section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from agent.core import binding
from agent.core.binding import Scope
from agent.core.errors import PlatformError
from agent.core.model import Evidence, Nonce
from agent.core.ports import Deadline, QuoteSource

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Quotes(Protocol):
    """Evidence by purpose, in this process or through the quoter's socket. Fields as in agent.core.binding.

    Every method raises PlatformError, FirmwareError, FormatError (a field out of bounds), DeadlineExceeded.
    """

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence: ...

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence: ...

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence: ...

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence: ...


class Quoter:
    """``Quotes`` straight from a source. ``scope`` (audience, boot id) goes into every purpose but the TAS's."""

    def __init__(self, source: QuoteSource, scope: Scope) -> None:
        self._source = source
        self.scope = scope

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return self._source.quote(binding.tas(nonce, wrapping_key), deadline=deadline)

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        report_data = binding.signing_key(self.scope, algorithm, use, spki, statement_digest)
        return self._source.quote(report_data, deadline=deadline)

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        return self._source.quote(binding.challenge_batch(self.scope, tree_size, root), deadline=deadline)

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        return self._source.quote(binding.collect(self.scope, nonce), deadline=deadline)


def local_scope(audience: str, boot_id_file: Path = BOOT_ID) -> Scope:
    """This boot's scope. Raises PlatformError without a boot id."""
    try:
        with boot_id_file.open("rb") as file:
            boot_id = file.read(64).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"{boot_id_file}: no boot id there: {error}", hint="mount /proc") from error
    return Scope(audience, boot_id)
