"""The form of persistent keys: exactly what docs/keys.md says, and nothing else is taken."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core import canonical
from agent.core.algorithm import ALGORITHMS
from agent.core.errors import FormatError, TeeAgentError
from agent.core.statement import AuditHead
from agent.daemon.keyfile import Index, Place, StoredGeneration, StoredKey, place, read_index, read_key, unfinished
from agent.daemon.privatekey import PrivateKey, sealed

ROOT = Path(__file__).resolve().parents[3]
SEED = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(SEED).public_key()
SPKI = PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
WHERE = Place("uid-1000", "orders", bytes(16))
KEY = StoredKey(
    "uid-1000", "orders", "jws", ALGORITHMS["Ed25519"], timedelta(days=2), 7, (StoredGeneration(3, SPKI, AT, None),)
)
HEAD = (
    b'{"algorithm":"Ed25519","generations":[{"created":"2026-03-01T12:00:00Z","ends":null,"number":3,'
    b'"spki":"MCowBQYDK2VwAyEAA6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="}],"lifetime_seconds":172800,'
    b'"name":"orders","namespace":"uid-1000","serial":7,"type":"tee-agent/key-file/v1","use":"jws"}'
)
INDEX = (
    b'{"audit":{"head":"%s","seq":41},"keys":{"uid-1000/orders":"00000000000000000000000000000000"},'
    b'"serial":7,"type":"tee-agent/key-index/v1"}' % (b"ab" * 32)
)


def plain(head: bytes = HEAD, secrets: bytes = SEED, size: int | None = None) -> memoryview:
    return memoryview(bytearray((len(head) if size is None else size).to_bytes(4, "big") + head + secrets))


def test_the_published_form_byte_by_byte() -> None:
    assert KEY.head() == len(HEAD).to_bytes(4, "big") + HEAD
    key, secrets = read_key(plain(), WHERE)
    assert (key, [bytes(one) for one in secrets]) == (KEY, [SEED])
    private = PrivateKey(key.algorithm, secrets[0])
    assert private.spki == SPKI
    written: list[bytes] = []

    def keep(data: bytearray) -> bytes:
        written.append(bytes(data))
        return b""

    sealed(KEY.head(), [private], keep)
    assert written == [bytes(plain())]


def test_the_published_index_byte_by_byte() -> None:
    index = Index(7, AuditHead(41, "ab" * 32), {("uid-1000", "orders"): bytes(16)})
    assert index.encode() == INDEX
    assert read_index(INDEX) == index
    assert index.places() == (WHERE,)
    assert read_index(Index(0, None, {}).encode()) == Index(0, None, {})


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "Ed25519"])
def test_a_curve_s_secret_is_its_scalar(name: str) -> None:
    algorithm = ALGORITHMS[name]
    curve = {"ECDSA-P256": ec.SECP256R1(), "ECDSA-P384": ec.SECP384R1(), "ECDSA-secp256k1": ec.SECP256K1()}[name]
    for value in (1, 5, algorithm.order - 1):
        secret = value.to_bytes(algorithm.secret_size, "big")
        public = ec.derive_private_key(value, curve).public_key()
        private = PrivateKey(algorithm, memoryview(secret))
        assert private.spki == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        copy = bytearray(algorithm.secret_size)
        private.copy_to(memoryview(copy))
        assert copy == secret
    for value in (0, algorithm.order, algorithm.order + 1):
        with pytest.raises(FormatError, match="order of its curve"):
            PrivateKey(algorithm, memoryview(value.to_bytes(algorithm.secret_size, "big")))
    for size in (0, algorithm.secret_size - 1, algorithm.secret_size + 1):
        with pytest.raises(FormatError, match="has"):
            PrivateKey(algorithm, memoryview(bytes(size)))


def test_secrets_leave_by_one_function_only() -> None:
    """Nothing else of the agent names what could export a signing key's private half."""
    exports = {"copy_to", "private_bytes", "private_bytes_raw", "private_numbers", "private_value"}
    users = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "agent" / "daemon").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in exports
    }
    assert users == {"agent/daemon/privatekey.py"}


def changed(**fields: Any) -> bytes:
    return canonical.encode({**json.loads(HEAD), **fields})


def generation(**fields: Any) -> bytes:
    return changed(generations=[{**json.loads(HEAD)["generations"][0], **fields}])


TWICE = json.loads(HEAD)["generations"] * 2
HEADS: dict[str, bytes] = {
    "nothing": b"",
    "not canonical": HEAD.replace(b":7,", b": 7,"),
    "another type": changed(type="tee-agent/key-file/v2"),
    "unknown member": changed(more=1),
    "missing member": HEAD.replace(b'"serial":7,', b""),
    "another name": changed(name="other"),
    "another namespace": changed(namespace="uid-1"),
    "no name": changed(name="Orders"),
    "path as name": changed(name="../x"),
    "no namespace": changed(namespace="a/b"),
    "no use": changed(use="internal"),
    "no algorithm": changed(algorithm="RSA"),
    "another algorithm": changed(algorithm="ECDSA-P256"),
    "serial 0": changed(serial=0),
    "life of 0": changed(lifetime_seconds=0),
    "life too long": changed(lifetime_seconds=366 * 86_400 + 1),
    "life as text": changed(lifetime_seconds="9"),
    "no generations": changed(generations=[]),
    "generations as object": changed(generations={}),
    "five generations": changed(generations=[{**TWICE[0], "number": number} for number in range(1, 6)]),
    "a number twice": changed(generations=TWICE),
    "numbers descend": changed(generations=[TWICE[0], {**TWICE[0], "number": 2}]),
    "two generations, one secret": changed(generations=[TWICE[0], {**TWICE[0], "number": 4}]),
    "number 0": generation(number=0),
    "number as truth": generation(number=True),
    "cut public key": generation(spki="MCowBQYDK2VwAyEA"),
    "fraction of a second": generation(created="2026-03-01T12:00:00.5Z"),
    "no date": generation(ends="2026-13-01T12:00:00Z"),
    "unknown member of a generation": generation(more=1),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_that_are_not_taken(head: bytes) -> None:
    with pytest.raises(FormatError):
        read_key(plain(head), WHERE)


@pytest.mark.parametrize(
    "data",
    [
        memoryview(b""),
        memoryview(b"\0\0\0"),
        plain(size=len(HEAD) + 33),
        plain(size=len(HEAD) - 1),
        plain(size=0xFFFFFFFF),
        plain(secrets=SEED[1:]),
        plain(secrets=SEED + b"\0"),
        plain(secrets=b""),
    ],
)
def test_sizes_that_do_not_fit(data: memoryview) -> None:
    with pytest.raises(FormatError):
        read_key(data, WHERE)


def test_any_change_is_refused_or_is_another_key() -> None:
    """Whatever a defect of a seal let through: no other exception, no second form of one content."""
    good = bytes(plain())
    changes: list[Callable[[int], bytes]] = [
        lambda index: good[:index],
        lambda index: good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :],
        lambda index: good[:index] + b"\xff" + good[index + 1 :],
        lambda index: good[:index] + b"{" + good[index:],
    ]
    for change in changes:
        for index in range(len(good)):
            data = change(index)
            try:
                key, secrets = read_key(memoryview(data), WHERE)
            except TeeAgentError:
                continue
            assert key.head() + b"".join(bytes(one) for one in secrets) == data != good


INDEXES: dict[str, bytes] = {
    "another type": INDEX.replace(b"index/v1", b"index/v2"),
    "unknown member": INDEX.replace(b'"serial"', b'"more":1,"serial"'),
    "no name": INDEX.replace(b"uid-1000/orders", b"uid-1000"),
    "path as name": INDEX.replace(b"uid-1000/orders", b"uid-1000/../x"),
    "short id": INDEX.replace(b"0" * 32, b"0" * 30),
    "negative serial": INDEX.replace(b'"serial":7', b'"serial":-7'),
    "audit without head": INDEX.replace(b'"head":"' + b"ab" * 32 + b'",', b""),
    "audit with a short head": INDEX.replace(b"abab", b"ab"),
    "keys as list": INDEX.replace(b'{"uid-1000/orders":"' + b"0" * 32 + b'"}', b"[]"),
}


@pytest.mark.parametrize("data", INDEXES.values(), ids=INDEXES)
def test_indexes_that_are_not_taken(data: bytes) -> None:
    assert data != INDEX
    with pytest.raises(FormatError):
        read_index(data)


def test_names_of_files() -> None:
    assert WHERE.file == f"uid-1000@orders@{'0' * 32}.key"
    assert place(WHERE.file) == WHERE
    for name in (
        "uid-1000@orders.key",
        f"uid-1000@Orders@{'0' * 32}.key",
        f"@orders@{'0' * 32}.key",
        f"uid-1000@orders@{'0' * 31}.key",
        f"uid-1000@orders@{'A' * 32}.key",
        f"uid-1000@orders@{'0' * 32}.key\n",
        f"uid-1000@orders@{'0' * 32}.key.new",
        f"uid-1000/../orders@{'0' * 32}.key",
        "index",
    ):
        assert place(name) is None
    assert [name for name in (WHERE.file + ".new", "index.new", "index.copy.new") if not unfinished(name)] == []
    assert [name for name in (WHERE.file, "index", ".new", "x.new", "index.new.new") if unfinished(name)] == []


def test_the_longest_names_fit_into_a_file_s_name() -> None:
    longest = Place("N" * 64, "n" * 63, bytes(16)).file
    assert len(longest + ".new") <= 255
    found = place(longest)
    assert found is not None
    assert found.labels == ("file", "N" * 64, "n" * 63, "0" * 32)
