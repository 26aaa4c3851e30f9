"""Quotes through the quoter's socket: one typed method per purpose on both sides, never REPORT_DATA itself."""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.core.canonical import Reader, b64
from agent.core.errors import FormatError, ProtocolError
from agent.core.model import Evidence, Nonce, Tee
from agent.core.ports import Deadline
from agent.daemon import rpc

MAX_KEY = 4096
"""Bytes of a public key, or of a wrapping key, in a request."""


class RemoteQuoter:
    """agent.quoter.Quotes for a process that may not open the kernel's interface itself.

    Every method raises what the quoter raised, TransportError when it is not there, ProtocolError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: Deadline) -> Evidence:
        return self._ask("tas", {"nonce": nonce.text, "wrapping_key": b64(wrapping_key)}, deadline)

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: Deadline
    ) -> Evidence:
        fields = {"algorithm": algorithm, "use": use, "spki": b64(spki), "statement_digest": statement_digest.hex()}
        return self._ask("signing_key", fields, deadline)

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: Deadline) -> Evidence:
        return self._ask("challenge_batch", {"tree_size": tree_size, "root": root.hex()}, deadline)

    def collect(self, nonce: bytes, *, deadline: Deadline) -> Evidence:
        return self._ask("collect", {"nonce": nonce.hex()}, deadline)

    def _ask(self, method: str, fields: Mapping[str, Any], deadline: Deadline) -> Evidence:
        return evidence_from(rpc.call(self._path, method, fields, deadline=deadline))


def evidence_to(evidence: Evidence) -> dict[str, Any]:
    """Evidence as an answer's result."""
    return {
        "tee": evidence.tee.value,
        "blob": b64(evidence.blob),
        "auxblob": b64(evidence.auxblob),
        "provider": evidence.provider,
    }


def evidence_from(result: dict[str, Any]) -> Evidence:
    """The way back. Raises ProtocolError."""
    try:
        reader = Reader(result, "evidence", frozenset({"tee", "blob", "auxblob", "provider"}))
        blob, auxblob = (a2b_base64(reader.text(key, rpc.MAX_ANSWER), strict_mode=True) for key in ("blob", "auxblob"))
        return Evidence(Tee(reader.text("tee", 32)), blob, auxblob, reader.text("provider", 64))
    except (FormatError, Base64Error, ValueError) as error:
        raise ProtocolError(f"the quoter's answer is not evidence: {error}") from error
