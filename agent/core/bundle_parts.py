"""The parts of a bundle, each with its form in JSON: payload, attachments, fresh proof (docs/bundle.md).

Readers are strict: exactly the known members, each in its domain. agent.core.bundle puts the parts together.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from agent.core import binding, canonical
from agent.core.algorithm import ED25519, SPKI_SIZES, Algorithm, of_spki
from agent.core.challenge import MAX_OBJECT, NONCE_MAX, NONCE_MIN, RANDOM_SIZE
from agent.core.errors import FormatError
from agent.core.merkle import HASH_SIZE, MAX_DEPTH
from agent.core.model import Endorsements, Tee
from agent.core.statement import Statement

ALGORITHM = ED25519
"""The agent's own key's (RFC 8032); named keys may have others (agent.core.algorithm)."""
ATTACHMENTS_PURPOSE = "bundle-attachments"
DIGEST = "sha-512"
MAX_BYTES = 1 << 20
"""Longest bundle that is read or written."""
MAX_BLOB = 1 << 16
"""Longest evidence blob: no report or quote comes near."""
MAX_OBJECTS = 32
"""Most certificates, and most CRLs."""

_FRESH_KEYS = frozenset({"caller", "claims_unverified", "index", "nonce", "path", "random", "root", "tree_size"})


@dataclass(frozen=True, slots=True)
class Payload:
    """What was signed, by its SHA-512 (64 bytes) and its size in bytes; the payload itself is not in the bundle."""

    digest: bytes
    size: int

    def __post_init__(self) -> None:
        if len(self.digest) != 64 or not 0 <= self.size <= canonical.MAX_INTEGER:
            raise FormatError("payload: a SHA-512 digest and a size are required", record="payload")

    @classmethod
    def of(cls, *parts: bytes) -> Payload:
        """The payload that ``parts`` make together."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return cls(hashlib.sha512(data).digest(), len(data))

    @classmethod
    def of_chunks(cls, chunks: Iterable[bytes]) -> Payload:
        """The same for what is too large for memory."""
        digest, size = hashlib.sha512(), 0
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
        return cls(digest.digest(), size)

    def to_json(self) -> dict[str, Any]:
        return {"algorithm": DIGEST, "digest": self.digest.hex(), "size": self.size}

    def canonical(self) -> bytes:
        """The canonical bytes of ``to_json``."""
        return b'{"algorithm":"sha-512","digest":"%s","size":%d}' % (binascii.hexlify(self.digest), self.size)


@dataclass(frozen=True)
class Attachments:
    """What all signatures of one key and one evidence share. Make it once, use it for every signature.

    ``blob`` is the SNP report or the TDX quote without padding, ``spki`` the key's SubjectPublicKeyInfo DER, whose
    form says the algorithm; that the statement names the same is for a verifier to check. Raises FormatError.
    """

    tee: Tee
    blob: bytes
    endorsements: Endorsements
    spki: bytes
    statement: Statement

    def __post_init__(self) -> None:
        of_spki(self.spki)

    @cached_property
    def algorithm(self) -> Algorithm:
        """The key's."""
        return of_spki(self.spki)

    def to_json(self) -> dict[str, Any]:
        vendor = self.endorsements
        return {
            "endorsements": {
                "certificates": [canonical.b64(der) for der in vendor.certificates],
                "crls": [canonical.b64(der) for der in vendor.crls],
                "qe_identity": canonical.b64(vendor.qe_identity),
                "tcb_info": canonical.b64(vendor.tcb_info),
            },
            "evidence": {"blob": canonical.b64(self.blob), "tee": self.tee.value},
            "key": {"algorithm": self.algorithm.name, "spki": canonical.b64(self.spki)},
            "statement": self.statement.to_json(),
        }

    @cached_property
    def members(self) -> Mapping[str, bytes]:
        """Every member in its canonical bytes, made once: those of ``to_json``, base64 written without a detour."""
        vendor = self.endorsements
        return {
            "endorsements": b'{"certificates":[%s],"crls":[%s],"qe_identity":%s,"tcb_info":%s}'
            % (
                b",".join(map(base64, vendor.certificates)),
                b",".join(map(base64, vendor.crls)),
                base64(vendor.qe_identity),
                base64(vendor.tcb_info),
            ),
            "evidence": b'{"blob":%s,"tee":"%s"}' % (base64(self.blob), self.tee.value.encode("ascii")),
            "key": b'{"algorithm":"%s","spki":%s}' % (self.algorithm.name.encode("ascii"), base64(self.spki)),
            "statement": self.statement.canonical(),
        }

    @cached_property
    def digest(self) -> bytes:
        """SHA-512 over the canonical members by name: 64 bytes."""
        members = self.members
        return hashlib.sha512(
            binding.tagged(ATTACHMENTS_PURPOSE, *(members[name] for name in sorted(members)))
        ).digest()

    @property
    def scope(self) -> binding.Scope:
        return binding.Scope(self.statement.audience, self.statement.boot_id)

    @cached_property
    def key_sha256(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo: the key's name, 32 bytes."""
        return hashlib.sha256(self.spki).digest()


@dataclass(frozen=True, slots=True)
class Fresh:
    """Proof that the agent held the caller's nonce before this quote: a leaf and its place in the quoted tree.

    ``random`` (32 bytes), ``nonce`` (16 to 64), ``caller`` and ``claims_unverified`` are the leaf's own fields
    (agent.core.challenge); ``path`` the RFC 9162 inclusion proof of leaf ``index`` of ``tree_size`` under ``root``.
    """

    random: bytes
    nonce: bytes
    caller: Mapping[str, Any]
    claims_unverified: Mapping[str, Any]
    root: bytes
    tree_size: int
    index: int
    path: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "caller": dict(self.caller),
            "claims_unverified": dict(self.claims_unverified),
            "index": self.index,
            "nonce": self.nonce.hex(),
            "path": [sibling.hex() for sibling in self.path],
            "random": self.random.hex(),
            "root": self.root.hex(),
            "tree_size": self.tree_size,
        }

    def canonical(self) -> bytes:
        """The canonical bytes of ``to_json``. Raises FormatError for objects that have none."""
        return (
            b'{"caller":%s,"claims_unverified":%s,"index":%d,"nonce":"%s","path":[%s],"random":"%s","root":"%s",'
            b'"tree_size":%d}'
        ) % (
            canonical.encode(dict(self.caller)),
            canonical.encode(dict(self.claims_unverified)),
            self.index,
            binascii.hexlify(self.nonce),
            b",".join(b'"%s"' % binascii.hexlify(sibling) for sibling in self.path),
            binascii.hexlify(self.random),
            binascii.hexlify(self.root),
            self.tree_size,
        )


def base64(data: bytes) -> bytes:
    """As a JSON string: nothing in base64 needs an escape (RFC 8785, section 3.2.2.2)."""
    return b'"%s"' % binascii.b2a_base64(data, newline=False)


def read_payload(document: Any) -> Payload:
    """Strict. Raises FormatError."""
    reader = canonical.Reader(document, "payload", frozenset({"algorithm", "digest", "size"}))
    if reader.item("algorithm") != DIGEST:
        raise FormatError(f"payload: algorithm is not {DIGEST}", record="payload")
    return Payload(reader.hexadecimal("digest", 64), reader.integer("size"))


def read_attachments(top: canonical.Reader) -> Attachments:
    """From the members endorsements, evidence, key and statement. Strict. Raises FormatError."""
    key = canonical.Reader(top.item("key"), "key", frozenset({"algorithm", "spki"}))
    spki = key.base64("spki", *SPKI_SIZES)
    if key.item("algorithm") != of_spki(spki).name:
        raise FormatError(f"key: algorithm is not {of_spki(spki).name}, as spki says", record="key")
    evidence = canonical.Reader(top.item("evidence"), "evidence", frozenset({"blob", "tee"}))
    return Attachments(
        _tee(evidence.item("tee")),
        evidence.base64("blob", 1, MAX_BLOB),
        _endorsements(top.item("endorsements")),
        spki,
        Statement.from_json(top.item("statement")),
    )


def _tee(value: Any) -> Tee:
    for tee in Tee:
        if value == tee.value:
            return tee
    raise FormatError(f"evidence: tee is not one of {', '.join(tee.value for tee in Tee)}", record="evidence")


def _endorsements(document: Any) -> Endorsements:
    keys = frozenset({"certificates", "crls", "qe_identity", "tcb_info"})
    reader = canonical.Reader(document, "endorsements", keys)
    return Endorsements(
        reader.base64_list("certificates", MAX_OBJECTS, MAX_BLOB),
        reader.base64_list("crls", MAX_OBJECTS, MAX_BYTES),
        reader.base64("tcb_info", 0, MAX_BYTES),
        reader.base64("qe_identity", 0, MAX_BYTES),
    )


def read_fresh(document: Any) -> Fresh:
    """Strict. Raises FormatError."""
    reader = canonical.Reader(document, "fresh", _FRESH_KEYS)
    size = reader.integer("tree_size", 1, 1 << MAX_DEPTH)
    return Fresh(
        reader.hexadecimal("random", RANDOM_SIZE),
        reader.hexadecimal("nonce", NONCE_MIN, NONCE_MAX),
        _object(reader, "caller"),
        _object(reader, "claims_unverified"),
        reader.hexadecimal("root", HASH_SIZE),
        size,
        reader.integer("index", 0, size - 1),
        reader.hexadecimal_list("path", MAX_DEPTH, HASH_SIZE),
    )


def _object(reader: canonical.Reader, key: str) -> dict[str, Any]:
    value = reader.item(key)
    if not isinstance(value, dict) or len(canonical.encode(value)) > MAX_OBJECT:
        raise FormatError(f"fresh: {key} is not an object of at most {MAX_OBJECT} bytes", record="fresh")
    return value
