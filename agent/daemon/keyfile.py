"""The form of persistent keys on the disk (docs/keys.md, "On the disk"): names of files, and what is in their seals.

One file per key with all its generations, so that a rotation, which adds one and ends another, is one file. A file is
written once under a name of its own; the index says which files count. Pure: no files, no seals, no private keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from agent.core import algorithm as algorithms
from agent.core import canonical
from agent.core.algorithm import SPKI_SIZES, Algorithm
from agent.core.errors import FormatError, Truncated, UnsupportedVersion
from agent.core.statement import AuditHead
from agent.daemon.keystore import MAX_GENERATIONS, MAX_LIFETIME, NAME, NAMESPACE, USES

FILE_TYPE, INDEX_TYPE = "tee-agent/key-file/v1", "tee-agent/key-index/v1"
MAX_FILE, MAX_INDEX = 16_384, 2 << 20
"""Bytes of a sealed key file, and of a sealed index, at the most."""
MAX_KEYS = 4096
"""What [daemon] keys_max may be."""
ID_SIZE = 16
SUFFIX, NEW = ".key", ".new"
INDEX, COPY, LOCK = "index", "index.copy", "lock"

_FILE = re.compile(rf"({NAMESPACE.pattern})@({NAME.pattern})@([0-9a-f]{{{2 * ID_SIZE}}})\.key", re.ASCII)
_HEAD = frozenset({"type", "namespace", "name", "use", "algorithm", "lifetime_seconds", "serial", "generations"})
_GENERATION = frozenset({"number", "spki", "created", "ends"})
_INDEX = frozenset({"type", "serial", "audit", "keys"})
_AUDIT = frozenset({"seq", "head"})
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LENGTH = 4

KeyName = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key's file is: its name says whose it is, and ``id``, which no other file ever had."""

    namespace: str
    name: str
    id: bytes

    @property
    def key(self) -> KeyName:
        return self.namespace, self.name

    @property
    def file(self) -> str:
        return f"{self.namespace}@{self.name}@{self.id.hex()}{SUFFIX}"

    @property
    def labels(self) -> tuple[str, ...]:
        """What its seal is bound to."""
        return ("file", self.namespace, self.name, self.id.hex())


def unfinished(file: str) -> bool:
    """Whether a file of this name is one that was never written to its end."""
    before = file.removesuffix(NEW)
    return before != file and (before in (INDEX, COPY) or place(before) is not None)


def place(file: str) -> Place | None:
    """What a file's name says; None where it is no key's."""
    found = _FILE.fullmatch(file)
    return Place(found[1], found[2], bytes.fromhex(found[3])) if found else None


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """Without its private key. ``ends`` is None where only destroying ends it."""

    number: int
    spki: bytes
    created: datetime
    ends: datetime | None

    def over(self, at: datetime) -> bool:
        return self.ends is not None and at >= self.ends


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as its file has it, newest generation last. ``serial`` is that of the index it was written for."""

    namespace: str
    name: str
    use: str
    algorithm: Algorithm
    lifetime: timedelta | None
    serial: int
    generations: tuple[StoredGeneration, ...]

    @property
    def key(self) -> KeyName:
        return self.namespace, self.name

    def head(self) -> bytes:
        """What stands before the secrets: 4 bytes of length, big-endian, and canonical JSON."""
        document = {
            "type": FILE_TYPE,
            "namespace": self.namespace,
            "name": self.name,
            "use": self.use,
            "algorithm": self.algorithm.name,
            "lifetime_seconds": int(self.lifetime.total_seconds()) if self.lifetime else None,
            "serial": self.serial,
            "generations": [
                {
                    "number": one.number,
                    "spki": canonical.b64(one.spki),
                    "created": canonical.rfc3339(one.created),
                    "ends": canonical.rfc3339(one.ends) if one.ends else None,
                }
                for one in self.generations
            ],
        }
        data = canonical.encode(document)
        return len(data).to_bytes(_LENGTH, "big") + data


def read_key(plain: memoryview, where: Place) -> tuple[StoredKey, tuple[memoryview, ...]]:
    """A key and the secrets of its generations, which are views of ``plain``. Raises FormatError.

    What is inside must be what the file's name says: a seal that ``where.labels`` opens may have been made by a defect.
    """
    size = int.from_bytes(plain[:_LENGTH], "big")
    rest = len(plain) - _LENGTH - size
    if rest < 0:
        raise Truncated("key file: shorter than it says", record="key file")
    key = _key(canonical.decode(bytes(plain[_LENGTH : _LENGTH + size]), "key file", MAX_FILE))
    if key.key != where.key:
        raise FormatError(f"key file: of the key {key.namespace}/{key.name}", record="key file")
    each = key.algorithm.secret_size
    if rest != each * len(key.generations):
        raise FormatError("key file: not one secret for each generation", record="key file")
    begin = _LENGTH + size
    return key, tuple(plain[begin + each * i : begin + each * (i + 1)] for i in range(len(key.generations)))


def _key(document: Mapping[str, Any]) -> StoredKey:
    reader = canonical.Reader(document, "key file", _HEAD)
    _require_type(reader, FILE_TYPE)
    algorithm = algorithms.find(reader.text("algorithm", 32))
    lifetime = reader.integer("lifetime_seconds", 1, MAX_LIFETIME) if document["lifetime_seconds"] is not None else None
    use = reader.text("use", 16)
    if use not in USES:
        raise FormatError("key file: use is none that a key may have", record="key file")
    return StoredKey(
        reader.text("namespace", 64, NAMESPACE, "a namespace"),
        reader.text("name", 63, NAME, "a key's name"),
        use,
        algorithm,
        None if lifetime is None else timedelta(seconds=lifetime),
        reader.integer("serial", 1),
        _generations(reader.item("generations"), algorithm),
    )


def _generations(value: Any, algorithm: Algorithm) -> tuple[StoredGeneration, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_GENERATIONS:
        raise FormatError(f"key file: generations is not a list of 1 to {MAX_GENERATIONS}", record="key file")
    found = tuple(_generation(item, algorithm) for item in value)
    if any(one.number >= later.number for one, later in pairwise(found)):
        raise FormatError("key file: generations are not in order", record="key file")
    return found


def _generation(item: Any, algorithm: Algorithm) -> StoredGeneration:
    reader = canonical.Reader(item, "key file: generation", _GENERATION)
    spki = reader.base64("spki", *SPKI_SIZES)
    algorithm.require_spki(spki)
    ends = None if reader.item("ends") is None else reader.time("ends")
    return StoredGeneration(reader.integer("number", 1), spki, reader.time("created"), ends)


@dataclass(frozen=True, slots=True)
class Index:
    """Which files count: ``keys`` by name, with the id of each one's file. ``serial`` grows by one with each change.

    ``audit`` is where the audit log stood before the change; None where it could not be written.
    """

    serial: int
    audit: AuditHead | None
    keys: Mapping[KeyName, bytes]

    def encode(self) -> bytes:
        """Canonical JSON."""
        document = {
            "type": INDEX_TYPE,
            "serial": self.serial,
            "audit": {"seq": self.audit.seq, "head": self.audit.head} if self.audit else None,
            "keys": {f"{namespace}/{name}": file_id.hex() for (namespace, name), file_id in self.keys.items()},
        }
        return canonical.encode(document)

    def places(self) -> tuple[Place, ...]:
        return tuple(Place(namespace, name, file_id) for (namespace, name), file_id in self.keys.items())


def read_index(plain: bytes) -> Index:
    """The way back from ``Index.encode``. Raises FormatError."""
    reader = canonical.Reader(canonical.decode(plain, "key index", MAX_INDEX), "key index", _INDEX)
    _require_type(reader, INDEX_TYPE)
    audit, keys = reader.item("audit"), reader.item("keys")
    if not isinstance(keys, dict) or len(keys) > MAX_KEYS:
        raise FormatError(f"key index: keys is not an object of at most {MAX_KEYS}", record="key index")
    head = None
    if audit is not None:
        said = canonical.Reader(audit, "key index: audit", _AUDIT)
        head = AuditHead(said.integer("seq"), said.text("head", 64, _SHA256, "64 hex digits"))
    names = canonical.Reader(keys, "key index: keys", frozenset(keys))
    return Index(reader.integer("serial"), head, {_name(name): names.hexadecimal(name, ID_SIZE) for name in keys})


def _name(text: str) -> KeyName:
    namespace, _, name = text.partition("/")
    if not NAMESPACE.fullmatch(namespace) or not NAME.fullmatch(name):
        raise FormatError(f"key index: {canonical.shown(text)} is no key's name", record="key index")
    return namespace, name


def _require_type(reader: canonical.Reader, expected: str) -> None:
    found = reader.text("type", 64)
    if found != expected:
        raise UnsupportedVersion(f"{reader.what}: type {canonical.shown(found)}", record=reader.what, expected=expected)
