"""Targets: what is on the disk of persistent keys, where the host may write: files, names of files, index, seals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent import sealing
from agent.core import canonical
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import TeeAgentError
from agent.core.model import Secret
from agent.core.statement import AuditHead
from agent.daemon.keyfile import (
    Index,
    Place,
    StoredGeneration,
    StoredKey,
    place,
    read_index,
    read_key,
    unfinished,
)
from agent.daemon.privatekey import PrivateKey
from agent.sealing import DATA, KEY, Sealer
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_core import JSON_WORDS, as_canonical

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHERE = Place("uid-1", "a", bytes(16))
LABELS = (("uid-1000", "orders"), WHERE.labels, ("index",))
_SALT = bytes(range(32))


def _sealers() -> tuple[Sealer, ...]:
    return Sealer.from_tas(Secret(bytes(range(32))), "keys"), Sealer.from_snp(Secret(bytes(range(32))))


SEALERS = _sealers()


def key_file(data: bytes) -> None:
    """As it stands; then with a head in its one form and of its own length: what is before the first line feed."""
    for plain in (data, _framed(data)):
        with memoryview(bytearray(plain)) as view:
            try:
                stored, secrets = read_key(view, _place(plain))
            except TeeAgentError:
                continue
            if stored.head() + b"".join(bytes(secret) for secret in secrets) != plain:
                raise Broken("a key file does not come out as it went in")
            if len(secrets) != len(stored.generations) or stored.key != _place(plain).key:
                raise Broken("a key of another name, or without a secret")
            for secret in secrets:
                _key(stored, secret)
    with memoryview(data) as view:
        read_key(view, WHERE)


def _key(stored: StoredKey, secret: memoryview) -> None:
    try:
        private = PrivateKey(stored.algorithm, secret)
    except TeeAgentError:
        return
    stored.algorithm.require_spki(private.spki)
    copy = bytearray(len(secret))
    private.copy_to(memoryview(copy))
    if copy != secret:
        raise Broken("a secret does not come out as it went in")


def _framed(data: bytes) -> bytes:
    head, _, secrets = data.partition(b"\n")
    head = as_canonical(head)
    return len(head).to_bytes(4, "big") + head + secrets


def _place(plain: bytes) -> Place:
    """Where a file of this content would be, if its name can be one."""
    size = int.from_bytes(plain[:4], "big")
    try:
        head = canonical.parse(plain[4 : 4 + size], "head", 1 << 20)
        name = f"{head.get('namespace')}@{head.get('name')}@{bytes(16).hex()}.key"
    except TeeAgentError:
        return WHERE
    return place(name) or WHERE


def names(data: bytes) -> None:
    """Names of files in the folder, one a line."""
    for name in data.decode(errors="surrogateescape").split("\n"):
        where = place(name)
        if where and (where.file != name or unfinished(name) or not unfinished(f"{name}.new")):
            raise Broken("a name does not come out as it went in")
        if where and ("/" in name or "\0" in name or name.startswith(".")):
            raise Broken("a name that leaves the folder, or is hidden")


def index(data: bytes) -> None:
    data = as_canonical(data)
    found = read_index(data)
    if found.encode() != data:
        raise Broken("an index does not come out as it went in")
    files = {where.file for where in found.places()}
    if len(files) != len(found.keys) or any(not place(file) for file in files):
        raise Broken("two keys have one file, or a file has no name")


def sealed(data: bytes) -> None:
    """Read by anybody, and opened by who has a root: then it is what that root would make."""
    data = as_canonical(data)
    found = sealing.decode(data)
    document = canonical.parse(data, "blob", sealing.MAX_BLOB)
    if canonical.encode({**canonical.parse(found.head, "head", 4096), "ciphertext": document["ciphertext"]}) != data:
        raise Broken("a blob's head and ciphertext are not the blob")
    for sealer in SEALERS:
        for purpose in (DATA, KEY):
            for labels in LABELS:
                try:
                    plain = sealer.unseal(purpose, labels, data)
                except TeeAgentError:
                    continue
                if sealer.seal_with(found.salt, purpose, labels, plain) != data:
                    raise Broken("two blobs for one salt, purpose and plaintext")


def _files() -> list[bytes]:
    found = []
    for use, kind in zip(("jws", "raw", "ssh", "eat"), ALGORITHMS.values(), strict=True):
        secret = bytes(range(1, kind.secret_size + 1))
        spki = PrivateKey(kind, memoryview(secret)).spki
        generations = (
            StoredGeneration(1, spki, AT, AT + timedelta(hours=1)),
            StoredGeneration(7, spki, AT + timedelta(minutes=1), None),
        )
        lifetime = timedelta(days=9) if use == "jws" else None
        head = StoredKey("uid-1", f"{use}.1", use, kind, lifetime, 3, generations).head()
        found += [head[4:] + b"\n" + secret * 2, head + secret * 2]
    return found


def _indexes() -> list[bytes]:
    keys = {("uid-1", "a"): bytes(16), ("team_x", "b-2.c"): bytes(range(16))}
    return [
        Index(0, None, {}).encode(),
        Index(7, AuditHead(41, "ab" * 32), keys).encode(),
    ]


def _blobs() -> list[bytes]:
    one, two = SEALERS
    return [
        one.seal_with(_SALT, DATA, LABELS[0], b""),
        one.seal_with(_SALT, KEY, LABELS[1], b"x" * 40),
        two.seal_with(_SALT, KEY, LABELS[2], b"{}"),
    ]


_HEAD_WORDS = tuple(
    f'"{name}":'.encode()
    for name in ("algorithm", "created", "ends", "generations", "lifetime_seconds", "name", "namespace", "number")
)
TARGETS = {
    "keys.file": Target(
        key_file,
        lambda _: _files(),
        (*JSON_WORDS, *_HEAD_WORDS, *(f'"{name}"'.encode() for name in ALGORITHMS), b'"2026-03-01T12:00:00Z"', b"\n"),
        most=2048,
    ),
    "keys.names": Target(
        names,
        lambda _: [
            WHERE.file.encode(),
            f"index.new\nindex.copy\nlock\n{WHERE.file}.new\nA_.-@b@{'0f' * 16}.key".encode(),
        ],
        (b"@", b".key", b".new", b"..", b"index", b"/", b"\xff", b"\n", b"0123456789abcdef"),
        most=512,
    ),
    "keys.index": Target(
        index, lambda _: _indexes(), (*JSON_WORDS, b'"audit":', b'"keys":', b'"serial":', b'"uid-1/a":'), most=4096
    ),
    "keys.sealed": Target(
        sealed,
        lambda _: _blobs(),
        (*JSON_WORDS, b'"ciphertext":', b'"root":', b'"salt":', b"tas:", b"snp-derived:", b"tee-agent/sealed/v1"),
        most=4096,
    ),
}
