"""The allow-list, one refusal at a time: what is wrong, and where, is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.errors import HeaderRefused
from agent.disk import metadata
from agent.disk.metadata import Metadata
from tests.support.luks import b64, keyslot, sample, token_document

SIZE = 0x4000


def parse(document: Any) -> Metadata:
    return metadata.parse(json.dumps(document).encode(), SIZE)


def changed(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


def without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


def argon2(**changes: Any) -> dict[str, Any]:
    return {"type": "argon2id", "time": 4, "memory": 1 << 20, "cpus": 4, "salt": b64(bytes(32)), **changes}


ALLOWED = {
    "argon2id at cryptsetup's default": changed("keyslots", "0", "kdf", to=argon2()),
    "argon2i": changed("keyslots", "0", "kdf", to=argon2(type="argon2i")),
    "priority": changed("keyslots", "0", "priority", to=2),
    "sha512": changed("keyslots", "0", "kdf", "hash", to="sha512"),
    "AES-128": changed("keyslots", "0", to=keyslot(0, key_size=32)),
    "foreign token with fields of its own": changed("tokens", "5", to={"type": "clevis", "keyslots": ["0"], "jwe": {}}),
    "token without a keyslot": changed("tokens", "5", to={"type": "x", "keyslots": []}),
    "fixed data size": changed("segments", "0", "size", to="1048576"),
    "512-byte sectors": changed("segments", "0", "sector_size", to=512),
    "empty flags": changed("config", "flags", to=[]),
    "no tokens": changed("tokens", to={}),
}


@pytest.mark.parametrize("change", ALLOWED.values(), ids=ALLOWED)
def test_what_cryptsetup_writes_is_allowed(change: Callable[[dict[str, Any]], None]) -> None:
    _, document = sample()
    change(document)
    if document["keyslots"]["0"]["key_size"] == 32:
        document["keyslots"]["0"]["area"] |= {"size": "131072", "key_size": 32}
    assert parse(document).document == document


def test_values_are_read() -> None:
    read = parse(sample()[1])
    assert (read.data_offset, read.data_size, read.keyslots_end) == (16 << 20, None, 16 << 20)
    assert read.keyslots[1].area == range(32768 + 258048, 32768 + 2 * 258048)
    assert (read.volume_digest.number, read.volume_digest.keyslots) == (0, (0, 1))


KDF = ("keyslots", "0", "kdf")
AREA = ("keyslots", "0", "area")
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], None], str, str]] = {
    # what, change, where, code
    "null segment": (changed("segments", "0", "encryption", to="cipher_null-ecb"), "segment 0", "null-cipher"),
    "null segment, short": (changed("segments", "0", "encryption", to="null"), "segment 0", "null-cipher"),
    "null keyslot": (changed(*AREA, "encryption", to="cipher_null-ecb"), "keyslot 0 area", "null-cipher"),
    "CBC": (changed("segments", "0", "encryption", to="aes-cbc-essiv:sha256"), "segment 0", "not-allowed"),
    "upper case": (changed("segments", "0", "encryption", to="AES-xts-plain64"), "segment 0", "not-allowed"),
    "integrity": (changed("segments", "0", "integrity", to={"type": "aead"}), "segment 0", "integrity"),
    "hardware encryption": (changed("segments", "0", "type", to="hw-opal"), "segment 0", "not-allowed"),
    "linear segment": (changed("segments", "0", "type", to="linear"), "segment 0", "not-allowed"),
    "segment flags": (changed("segments", "0", "flags", to=["in-reencryption"]), "segment 0", "reencrypt"),
    "two segments": (changed("segments", "1", to={"type": "linear"}), "segments", "reencrypt"),
    "segment number": (changed("segments", to={"1": sample()[1]["segments"]["0"]}), "segments", "reencrypt"),
    "no segment": (changed("segments", to={}), "segments", "reencrypt"),
    "segment is a list": (changed("segments", "0", to=[]), "segment 0", "metadata"),
    "tweak": (changed("segments", "0", "iv_tweak", to="1"), "segment 0", "not-allowed"),
    "sector of 513": (changed("segments", "0", "sector_size", to=513), "segment 0", "bounds"),
    "data in the header": (changed("segments", "0", "offset", to="32768"), "segment 0", "bounds"),
    "data at an odd place": (changed("segments", "0", "offset", to="16777217"), "segment 0", "bounds"),
    "data of no size": (changed("segments", "0", "size", to="0"), "segment 0", "bounds"),
    "requirements": (changed("config", "requirements", to={"mandatory": ["online-reencrypt"]}), "config", "reencrypt"),
    "flags": (changed("config", "flags", to=["allow-discards"]), "config", "flags"),
    "config is a list": (changed("config", to=[]), "config", "metadata"),
    "json_size": (changed("config", "json_size", to="12289"), "config", "bounds"),
    "keyslots_size of 1": (changed("config", "keyslots_size", to="1"), "config", "bounds"),
    "keyslots_size of 256 MiB": (changed("config", "keyslots_size", to=str(1 << 28)), "config", "bounds"),
    "reencrypt keyslot": (changed("keyslots", "0", "type", to="reencrypt"), "keyslot 0", "reencrypt"),
    "unknown keyslot": (changed("keyslots", "0", "type", to="luks3"), "keyslot 0", "not-allowed"),
    "key of 16 bytes": (changed("keyslots", "0", "key_size", to=16), "keyslot 0", "not-allowed"),
    "priority of 3": (changed("keyslots", "0", "priority", to=3), "keyslot 0", "metadata"),
    "stripes": (changed("keyslots", "0", "af", "stripes", to=1), "keyslot 0 af", "metadata"),
    "af type": (changed("keyslots", "0", "af", "type", to="none"), "keyslot 0 af", "not-allowed"),
    "af hash": (changed("keyslots", "0", "af", "hash", to="sha1"), "keyslot 0 af", "not-allowed"),
    "pbkdf2 hash": (changed(*KDF, "hash", to="md5"), "keyslot 0 kdf", "not-allowed"),
    "pbkdf2 too cheap": (changed(*KDF, "iterations", to=999), "keyslot 0 kdf", "cost"),
    "pbkdf2 too dear": (changed(*KDF, "iterations", to=50_000_001), "keyslot 0 kdf", "cost"),
    "argon2 memory": (changed(*KDF, to=argon2(memory=(1 << 20) + 1)), "keyslot 0 kdf", "cost"),
    "argon2 time": (changed(*KDF, to=argon2(time=257, memory=8)), "keyslot 0 kdf", "cost"),
    "argon2 work": (changed(*KDF, to=argon2(time=64)), "keyslot 0 kdf", "cost"),
    "argon2 lanes": (changed(*KDF, to=argon2(cpus=5)), "keyslot 0 kdf", "cost"),
    "argon2 huge": (changed(*KDF, to=argon2(memory=2**31, time=2**31)), "keyslot 0 kdf", "cost"),
    "kdf type": (changed(*KDF, to=argon2(type="scrypt")), "keyslot 0 kdf", "not-allowed"),
    "kdf is a string": (changed(*KDF, to="pbkdf2"), "keyslot 0 kdf", "metadata"),
    "short salt": (changed(*KDF, "salt", to=b64(b"x")), "keyslot 0 kdf", "metadata"),
    "salt not base64": (changed(*KDF, "salt", to="?" * 44), "keyslot 0 kdf", "metadata"),
    "area type": (changed(*AREA, "type", to="none"), "keyslot 0 area", "not-allowed"),
    "area key": (changed(*AREA, "key_size", to=8), "keyslot 0 area", "not-allowed"),
    "area in the header": (changed(*AREA, "offset", to="4096"), "keyslot 0 area", "bounds"),
    "area beyond its end": (changed(*AREA, "offset", to=str(16 << 20)), "keyslot 0 area", "bounds"),
    "area far beyond": (changed(*AREA, "offset", to=str(10**18 // 4096 * 4096)), "keyslot 0 area", "bounds"),
    "area overlap": (changed(*AREA, "offset", to=str(32768 + 4096)), "keyslot 1 area", "bounds"),
    "area at an odd place": (changed(*AREA, "offset", to="32769"), "keyslot 0 area", "bounds"),
    "area too small": (changed(*AREA, "size", to="4096"), "keyslot 0 area", "bounds"),
    "area too large": (changed(*AREA, "size", to="1048576"), "keyslot 0 area", "bounds"),
    "offset as a number": (changed(*AREA, "offset", to=32768), "keyslot 0 area", "metadata"),
    "offset with a zero": (changed(*AREA, "offset", to="032768"), "keyslot 0 area", "metadata"),
    "offset below zero": (changed(*AREA, "offset", to="-4096"), "keyslot 0 area", "metadata"),
    "offset of many digits": (changed(*AREA, "offset", to="4" * 5000), "keyslot 0 area", "metadata"),
    "iterations as a string": (changed(*KDF, "iterations", to="1000"), "keyslot 0 kdf", "metadata"),
    "iterations true": (changed(*KDF, "iterations", to=True), "keyslot 0 kdf", "metadata"),
    "iterations as a float": (changed(*KDF, "iterations", to=1000.0), "metadata", "metadata"),
    "unknown field of a keyslot": (changed("keyslots", "0", "x", to=1), "keyslot 0", "metadata"),
    "unknown field of a kdf": (changed(*KDF, "x", to=1), "keyslot 0 kdf", "metadata"),
    "unknown field of an area": (changed(*AREA, "x", to=1), "keyslot 0 area", "metadata"),
    "unknown field of an af": (changed("keyslots", "0", "af", "x", to=1), "keyslot 0 af", "metadata"),
    "unknown field of a segment": (changed("segments", "0", "x", to=1), "segment 0", "metadata"),
    "unknown field of a digest": (changed("digests", "0", "x", to=1), "digest 0", "metadata"),
    "unknown field of config": (changed("config", "x", to=1), "config", "metadata"),
    "unknown field at the top": (changed("x", to={}), "metadata", "metadata"),
    "missing area": (without("keyslots", "0", "area"), "keyslot 0", "metadata"),
    "missing digests": (without("digests"), "metadata", "metadata"),
    "keyslot 32": (changed("keyslots", "32", to=keyslot(2)), "keyslots", "metadata"),
    "keyslot 02": (changed("keyslots", "02", to=keyslot(2)), "keyslots", "metadata"),
    "keyslots as a list": (changed("keyslots", to=[]), "keyslots", "metadata"),
    "keyslot without digest": (changed("keyslots", "2", to=keyslot(2)), "digests", "metadata"),
    "digest type": (changed("digests", "0", "type", to="x"), "digest 0", "not-allowed"),
    "digest hash": (changed("digests", "0", "hash", to="sha1"), "digest 0", "not-allowed"),
    "digest cost": (changed("digests", "0", "iterations", to=2**31), "digest 0", "cost"),
    "digest length": (changed("digests", "0", "digest", to=b64(bytes(20))), "digest 0", "metadata"),
    "digest of no keyslot": (changed("digests", "0", "keyslots", to=["0", "1", "2"]), "digest 0", "metadata"),
    "digest keyslot twice": (changed("digests", "0", "keyslots", to=["0", "1", "1"]), "digest 0", "metadata"),
    "digest keyslots no list": (changed("digests", "0", "keyslots", to="01"), "digest 0", "metadata"),
    "digest keyslot as a number": (changed("digests", "0", "keyslots", to=[0, 1]), "digest 0", "metadata"),
    "digest of segment 1": (changed("digests", "0", "segments", to=["1"]), "digest 0", "metadata"),
    "digest of no segment": (changed("digests", "0", "segments", to=[]), "digests", "reencrypt"),
    "no digest": (changed("digests", to={}), "digests", "reencrypt"),
    "second digest of the segment": (
        changed("digests", "1", to={**sample()[1]["digests"]["0"], "keyslots": []}),
        "digests",
        "reencrypt",
    ),
    "token of no keyslot": (changed("tokens", "0", "keyslots", to=["9"]), "token 0", "metadata"),
    "token without type": (changed("tokens", "0", to={"keyslots": []}), "token 0", "metadata"),
    "token is a list": (changed("tokens", "0", to=[]), "token 0", "metadata"),
    "token number": (changed("tokens", "-1", to=token_document()), "tokens", "metadata"),
}


@pytest.mark.parametrize(("change", "where", "code"), REFUSED.values(), ids=REFUSED)
def test_refused_by_name(change: Callable[[dict[str, Any]], None], where: str, code: str) -> None:
    _, document = sample()
    change(document)
    with pytest.raises(HeaderRefused) as caught:
        parse(document)
    assert where in caught.value.message
    assert caught.value.code == f"disk.header.{code}"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"keyslots":{},"keyslots":{}}',
        b"\xff",
        b'{"config":NaN}',
        b"[" * 5000,
        b'{"a":' * 5000,
        b'{"tokens":' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"keyslots":"\\ud800"}',
        b'"' + b"[" * 5000,
        b'"' + b'\\"' * (1 << 21) + b"\\",
        b'"' * ((1 << 22) + 1),
        b"9" * 10_000,
    ],
)
def test_text_that_is_not_metadata(text: bytes) -> None:
    with pytest.raises(HeaderRefused):
        metadata.parse(text, 1 << 23)


def test_brackets_in_strings_are_not_nesting() -> None:
    _, document = sample()
    document["tokens"]["5"] = {"type": "x", "keyslots": [], "note": '[[[["{{\\"[' * 50}
    assert parse(document).tokens[5]["note"].startswith("[[[[")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from(["cipher_null-ecb", "0", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [prefix]
    return [prefix, *(path for key, item in value.items() for path in paths(item, (*prefix, key)))]


PATHS = [path for path in paths(sample()[1]) if path]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), JSON), min_size=1, max_size=3))
def test_mutated_metadata_is_refused_or_harmless(mutations: list[tuple[tuple[str, ...], Any]]) -> None:
    _, document = sample()
    for path, value in mutations:
        holder: Any = document
        for key in path[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[path[-1]] = value
    try:
        read = parse(document)
    except HeaderRefused:
        return
    # What got through is as safe as what cryptsetup writes.
    assert document["segments"]["0"]["encryption"] == "aes-xts-plain64"
    assert document["segments"]["0"]["type"] == "crypt"
    for slot in read.keyslots.values():
        assert slot.document["area"]["encryption"] == "aes-xts-plain64"
        assert read.keyslots_end >= slot.area.stop
    assert not document["config"].get("flags")
    assert not document["config"].get("requirements")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_text_gives_only_typed_errors(data: st.DataObject) -> None:
    text = bytearray(json.dumps(sample()[1]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        metadata.parse(bytes(text), SIZE)
    except HeaderRefused as error:
        assert error.message
