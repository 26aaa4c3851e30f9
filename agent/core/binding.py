"""What goes into REPORT_DATA, decided here and nowhere else (DESIGN.md section 4; docs/vectors/binding.json).

Two families that can't meet, since the first byte differs: the attestation service's input starts with a hex digit,
ours with "t". No function takes caller-chosen REPORT_DATA, or hashes caller-chosen bytes without its own tag (I2).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from agent.core.errors import FormatError
from agent.core.model import Nonce, ReportData

TAG = b"tee-agent/v1"
MAX_FIELD = 1 << 20
"""Bytes of one field at the most."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Who an evidence is for and which boot made it: part of every purpose of ours.

    ``audience`` is free text ("" for none), ``boot_id`` the kernel's random boot id (36 characters).
    """

    audience: str
    boot_id: str

    def fields(self) -> tuple[bytes, bytes]:
        return self.audience.encode(), self.boot_id.encode("ascii")


def tagged(purpose: str, *fields: bytes) -> bytes:
    """``"tee-agent/v1" || 0 || purpose || 0 || (u32-be length || bytes)*``: the hashed input of a purpose."""
    parts = [TAG, b"\0", purpose.encode("ascii"), b"\0"]
    return b"".join([*parts, *map(field, fields)])


def field(value: bytes) -> bytes:
    """One more field of a tagged input: its length and ``value``. Raises FormatError over MAX_FIELD."""
    if len(value) > MAX_FIELD:
        raise FormatError(f"a field has {len(value)} bytes, {MAX_FIELD} are allowed", record="binding")
    return struct.pack(">I", len(value)) + value


def _bind(purpose: str, *fields: bytes) -> ReportData:
    return ReportData(hashlib.sha512(tagged(purpose, *fields)).digest())


def tas(nonce: Nonce, wrapping_key: bytes, components: tuple[bytes, ...] = ()) -> ReportData:
    """The attestation service's own form: SHA-512(nonce as ASCII || key as sent || component hashes).

    ``wrapping_key`` is PKCS#1 DER, never empty: evidence over a bare nonce is never made (I3).
    ``components`` are SHA-512 digests (64 bytes each) by device index.
    """
    if not wrapping_key:
        raise FormatError("a wrapping key is required: evidence over a bare nonce is never made", record="tas")
    if any(len(digest) != 64 for digest in components):
        raise FormatError("component hashes have 64 bytes each", record="tas")
    return ReportData(hashlib.sha512(nonce.text.encode("ascii") + wrapping_key + b"".join(components)).digest())


def signing_key(scope: Scope, algorithm: str, use: str, spki: bytes, statement_digest: bytes) -> ReportData:
    """A signing key: SubjectPublicKeyInfo DER and the SHA-512 of its canonical statement."""
    return _bind("signing-key", *scope.fields(), algorithm.encode(), use.encode(), spki, statement_digest)


def encryption_key(scope: Scope, kem: str, public_key: bytes, statement_digest: bytes) -> ReportData:
    """A key that others encrypt to."""
    return _bind("encryption-key", *scope.fields(), kem.encode(), public_key, statement_digest)


def tls_key(scope: Scope, spki: bytes, statement_digest: bytes) -> ReportData:
    """A TLS server or client key."""
    return _bind("tls-key", *scope.fields(), spki, statement_digest)


def challenge_batch(scope: Scope, tree_size: int, root: bytes) -> ReportData:
    """A Merkle tree of challenges, closed before the quote is asked for. ``root`` has 64 bytes (SHA-512)."""
    return _bind("challenge-batch", *scope.fields(), struct.pack(">Q", tree_size), root)


def collect(scope: Scope, nonce: bytes) -> ReportData:
    """Evidence for somebody who holds ``nonce`` (16 to 64 bytes), about the machine and nothing else."""
    _nonce_size(nonce)
    return _bind("collect", *scope.fields(), nonce)


def compat(scope: Scope, dialect: str, data: bytes) -> ReportData:
    """A caller's data under another system's interface: still tagged, so it can pass for nothing else."""
    return _bind("compat", *scope.fields(), dialect.encode(), data)


def _nonce_size(nonce: bytes) -> None:
    if not 16 <= len(nonce) <= 64:
        raise FormatError(f"a nonce has 16 to 64 bytes, not {len(nonce)}", record="nonce")
