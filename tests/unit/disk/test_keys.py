"""What is derived from a secret, and what the header's MAC does and doesn't cover."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.core.errors import HeaderTampered, SecretError
from agent.core.model import Secret
from agent.disk import keys
from agent.disk.token import Binding
from tests.support.luks import POLICY, SECRET, UUID, b64, keyslot, sample, sample_header

BINDING = Binding(1, POLICY, 1, "bound")


def info(label: bytes, *fields: bytes) -> bytes:
    return label + b"\0" + b"".join(struct.pack(">I", len(field)) + field for field in fields)


@pytest.mark.parametrize("label", ["keyslot", "header-mac"])
def test_derivation_is_hkdf(label: str) -> None:
    # An independent HKDF is the judge.
    wanted = HKDF(
        SHA256(), 32, b"tee-agent/v1/luks", info(label.encode(), UUID.encode(), b"policy-a", bytes(7) + b"\1")
    )
    derived = keys.derive(Secret(SECRET), label, UUID, BINDING)
    assert derived.reveal() == wanted.derive(SECRET)


def test_published_vector() -> None:
    # docs/disk.md
    derived = keys.passphrase(Secret(SECRET), UUID, BINDING)
    assert derived.reveal().hex() == "b9cd93accf5d3fabf8f947a167bd17057cd931df6950bb6474fbd40562aae73f"


def test_every_input_counts() -> None:
    variants = [
        ("keyslot", UUID, BINDING),
        ("header-mac", UUID, BINDING),
        ("keyslot", UUID.replace("4", "5"), BINDING),
        ("keyslot", UUID, replace(BINDING, key_id="policy-b")),
        ("keyslot", UUID, replace(BINDING, generation=2)),
    ]
    derived = {bytes(keys.derive(Secret(SECRET), *variant).reveal()) for variant in variants}
    assert len(derived) == len(variants)
    assert bytes(keys.passphrase(Secret(bytes(32)), UUID, BINDING).reveal()) not in derived


@pytest.mark.parametrize("length", [1, 16, 31])
def test_a_short_secret_is_refused_and_wiped(length: int) -> None:
    secret = Secret(b"\x01" * length)
    with pytest.raises(SecretError, match="32 are required") as caught:
        keys.checked(secret)
    assert caught.value.code == "secret.short"
    assert len(secret) == 0


def test_a_secret_of_32_bytes_is_enough() -> None:
    assert len(keys.checked(Secret(SECRET))) == 32


def test_mac_is_over_canonical_json() -> None:
    text = keys.authenticated(sample_header(), BINDING)
    _, document = sample()
    digest = {key: value for key, value in document["digests"]["0"].items() if key != "keyslots"}
    wanted = {
        "uuid": UUID,
        "segments": document["segments"],
        "digests": {"0": digest},
        "requirements": {},
        "config": document["config"],
        "keyslot": document["keyslots"]["1"],
        "token": {key: value for key, value in document["tokens"]["0"].items() if key != "mac"},
    }
    assert json.loads(text) == wanted
    assert text == json.dumps(wanted, sort_keys=True, separators=(",", ":")).encode()
    key = keys.derive(Secret(SECRET), "header-mac", UUID, BINDING)
    assert keys.header_mac(Secret(SECRET), sample_header(), BINDING) == hmac.digest(key.reveal(), text, hashlib.sha256)


def foreign_slot(document: dict[str, Any]) -> None:
    document["keyslots"]["7"] = keyslot(7)
    document["digests"]["0"]["keyslots"] = ["7", "1", "0"]


def foreign_slot_gone(document: dict[str, Any]) -> None:
    del document["keyslots"]["0"]
    document["digests"]["0"]["keyslots"] = ["1"]


def foreign_token(document: dict[str, Any]) -> None:
    document["tokens"]["3"] = {"type": "clevis", "keyslots": ["0"], "jwe": {"ciphertext": "x"}}


def unbound_key(document: dict[str, Any]) -> None:
    document["keyslots"]["7"] = keyslot(7)
    document["digests"]["1"] = {**document["digests"]["0"], "keyslots": ["7"], "segments": []}


@pytest.mark.parametrize("change", [foreign_slot, foreign_slot_gone, foreign_token, unbound_key])
def test_what_an_admin_does_leaves_the_mac_alone(change: Callable[[dict[str, Any]], None]) -> None:
    secret = Secret(SECRET)
    binding = replace(BINDING, mac=keys.header_mac(secret, sample_header(), BINDING))
    keys.verify_mac(secret, sample_header(change), binding)


def set_at(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_at("segments", "0", "offset", to="16781312"),
        set_at("segments", "0", "sector_size", to=512),
        set_at("segments", "0", "size", to="8388608"),
        set_at("digests", "0", "digest", to=b64(bytes(32))),
        set_at("digests", "0", "salt", to=b64(b"\1" * 32)),
        set_at("digests", "0", "iterations", to=1001),
        set_at("keyslots", "1", "kdf", "salt", to=b64(bytes(32))),
        set_at("keyslots", "1", "kdf", "iterations", to=2000),
        set_at("keyslots", "1", "area", "offset", to="8388608"),
        set_at("keyslots", "1", "priority", to=0),
        set_at("config", "keyslots_size", to="16740352"),
    ],
)
def test_what_pins_the_volume_breaks_the_mac(change: Callable[[dict[str, Any]], None]) -> None:
    secret = Secret(SECRET)
    binding = replace(BINDING, mac=keys.header_mac(secret, sample_header(), BINDING))
    with pytest.raises(HeaderTampered, match="is not the one that was bound"):
        keys.verify_mac(secret, sample_header(change), binding)


def test_another_secret_or_token_breaks_the_mac() -> None:
    binding = replace(BINDING, mac=keys.header_mac(Secret(SECRET), sample_header(), BINDING))
    with pytest.raises(HeaderTampered):
        keys.verify_mac(Secret(bytes(32)), sample_header(), binding)
    for other in (replace(binding, slot=0), replace(binding, generation=2), replace(binding, mac=bytes(32))):
        with pytest.raises(HeaderTampered):
            keys.verify_mac(Secret(SECRET), sample_header(), other)
