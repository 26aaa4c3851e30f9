"""Quotes and derived keys through the quoter's socket, wrapped secrets through the fetcher's: typed on both sides.

One method per purpose, never REPORT_DATA itself.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.core.canonical import Reader, b64
from agent.core.errors import FormatError, ProtocolError
from agent.core.exchange import Algorithm, Wrapped, require_form
from agent.core.model import Evidence, Nonce, Secret, Tee
from agent.core.ports import Deadline
from agent.daemon import rpc

DERIVED_KEY = 32
"""Bytes of a derived key."""
MAX_KEY = 4096
"""Bytes of a public key, or of a wrapping key, in a request."""
MAX_WRAPPED = 1 << 20
"""Bytes of each part of a wrapped secret; [tas] answer_bytes, less base64, is the most that comes."""
_PARTS = ("wrapped_key", "blob", "iv", "tag")


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

    def announce(self, wrapping_key: bytes, *, deadline: Deadline) -> None:
        """Says that this wrapping key is ours: evidence for the service's form is made over no other."""
        rpc.call(self._path, "announce", {"wrapping_key": b64(wrapping_key)}, deadline=deadline)

    def derived_key(self, *, deadline: Deadline) -> Secret:
        """What the chip derives for this guest's sealed data. Raises FirmwareError, Denied if not configured."""
        result = rpc.call(self._path, "derived_key", {}, deadline=deadline)
        try:
            return Secret(Reader(result, "derived key", frozenset({"key"})).base64("key", DERIVED_KEY, DERIVED_KEY))
        except FormatError as error:
            raise ProtocolError(f"the quoter's answer is not a key: {error}") from error

    def _ask(self, method: str, fields: Mapping[str, Any], deadline: Deadline) -> Evidence:
        return evidence_from(rpc.call(self._path, method, fields, deadline=deadline))


class RemoteReleases:
    """What the attestation service releases, through the fetcher: encrypted to a key that the fetcher never has."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def release(self, what: str, wrapping_key: bytes, *, deadline: Deadline) -> Wrapped:
        """``what`` is "sealing" or the name of a configured secret. Raises what the fetcher raised, or as rpc.call."""
        fields = {"what": what, "wrapping_key": b64(wrapping_key)}
        return wrapped_from(rpc.call(self._path, "release", fields, deadline=deadline))


def wrapped_to(wrapped: Wrapped) -> dict[str, Any]:
    """A wrapped secret as an answer's result."""
    parts = {name: b64(getattr(wrapped, name)) for name in _PARTS}
    return {"algorithm": wrapped.algorithm, "added_root": wrapped.added_root, **parts}


def wrapped_from(result: dict[str, Any]) -> Wrapped:
    """The way back. Raises ProtocolError."""
    try:
        reader = Reader(result, "wrapped secret", frozenset({"algorithm", "added_root", *_PARTS}))
        parts = {name: reader.base64(name, 0, MAX_WRAPPED) for name in _PARTS}
        return require_form(Wrapped(_algorithm(reader), **parts, added_root=reader.item("added_root") is not False))
    except FormatError as error:
        raise ProtocolError(f"the fetcher's answer is not a wrapped secret: {error}") from error


def _algorithm(reader: Reader) -> Algorithm:
    match reader.item("algorithm"):
        case "AES-GCM":
            return "AES-GCM"
        case "AES-KWP":
            return "AES-KWP"
    raise FormatError("algorithm is neither AES-GCM nor AES-KWP", record="wrapped secret")


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
