"""Signatures of policies: ours against openssl's, theirs in every form, and everything else refused."""

from __future__ import annotations

import base64
import copy
import datetime as dt
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from agent.core.errors import FormatError, SignatureInvalid, UsageError
from agent.core.policy import Policy
from agent.verify.policysign import CODE, PolicyKey, canonical, load_keys, signed, verified
from tests.support.policies import document

NONE = serialization.NoEncryption()
PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(PEM, PKCS8, NONE)


@pytest.fixture(scope="module")
def trusted(key: rsa.RSAPrivateKey) -> tuple[PolicyKey, ...]:
    return (PolicyKey("test", key.public_key().public_bytes(serialization.Encoding.DER, SPKI)),)


def test_what_we_sign_verifies(private_pem: bytes, trusted: tuple[PolicyKey, ...]) -> None:
    made = signed(document(name="größe €", build=1.5), private_pem)
    assert made["signature"]["padding"] == "PSS"
    policy = verified(Policy.from_bytes(json.dumps(made, indent=7).encode()), trusted)
    assert policy.signer == f"sha256:{trusted[0].sha256}"
    again = signed(made, private_pem)  # the old signature is replaced, not signed
    assert verified(Policy.parse(again), trusted).signer


def test_key_order_and_layout_do_not_matter(private_pem: bytes, trusted: tuple[PolicyKey, ...]) -> None:
    made = signed(document(rules={"vmpl": {"exact_match": 0}}), private_pem)
    backwards = json.dumps(dict(reversed(made.items()))).replace('"vmpl": {', '  "vmpl"  :\n{')
    assert verified(Policy.from_bytes(backwards.encode()), trusted).signer


@pytest.mark.parametrize("salt", ["max", "digest", "0"])
def test_openssl_signs_for_us(
    salt: str, private_pem: bytes, trusted: tuple[PolicyKey, ...], tmp_path: Path, key: rsa.RSAPrivateKey
) -> None:
    (tmp_path / "key.pem").write_bytes(private_pem)
    (tmp_path / "data").write_bytes(canonical(document()))
    options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{salt}"]
    command = ["openssl", "dgst", "-sha384", "-sign", "key.pem", *options, "-out", "signature", "data"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    value = base64.b64encode((tmp_path / "signature").read_bytes()).decode()
    for signature in ({"value": value}, {"algorithm": "anything", "padding": "PSS", "value": value}):
        assert verified(Policy.parse({**document(), "signature": signature}), trusted).signer


def test_openssl_verifies_ours(private_pem: bytes, key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    made = signed(document(), private_pem)
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(PEM, SPKI))
    (tmp_path / "data").write_bytes(canonical(made))
    (tmp_path / "signature").write_bytes(base64.b64decode(made["signature"]["value"]))
    options = ["-sigopt", "rsa_padding_mode:pss", "-signature", "signature"]
    command = ["openssl", "dgst", "-sha384", "-verify", "key.pub", *options, "data"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("name", ["PKCS1v15", "pkcs1", "anything"])
def test_pkcs1_padding_by_any_other_name(name: str, key: rsa.RSAPrivateKey, trusted: tuple[PolicyKey, ...]) -> None:
    value = key.sign(canonical(document()), padding.PKCS1v15(), hashes.SHA384())
    signature = {"padding": name, "value": base64.b64encode(value).decode()}
    assert verified(Policy.parse({**document(), "signature": signature}), trusted).signer
    with pytest.raises(SignatureInvalid):
        verified(Policy.parse({**document(), "signature": {**signature, "padding": "PSS"}}), trusted)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(made: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for name in parents:
            made = made[name]
        made[last] = value

    return apply


BAD: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("another key id", change("metadata.key_id", "other")),
    ("another measurement", change("validation_rules.measurement.exact_match", "cd" * 48)),
    ("an added rule", change("validation_rules.vmpl", {"exact_match": 0})),
    ("added metadata", change("metadata.note", "x")),
    ("no signature", lambda made: made.pop("signature")),
    ("signature is text", change("signature", "AAAA")),
    ("no value", change("signature", {"padding": "PSS"})),
    ("empty value", change("signature.value", "")),
    ("value is a number", change("signature.value", 7)),
    ("value is no base64", change("signature.value", "%%%%")),
    ("value is not ASCII", change("signature.value", "é" * 8)),
    ("value is too long", change("signature.value", "AAAA" * (1 << 15))),
    ("value is short", change("signature.value", "AAAA")),
    ("padding is null", change("signature.padding", None)),
]


@pytest.mark.parametrize("spoil", [case[1] for case in BAD], ids=[case[0] for case in BAD])
def test_refused(spoil: Callable[[dict[str, Any]], Any], private_pem: bytes, trusted: tuple[PolicyKey, ...]) -> None:
    made = copy.deepcopy(signed(document(), private_pem))
    spoil(made)
    with pytest.raises(SignatureInvalid) as caught:
        verified(Policy.parse(made), trusted)
    assert caught.value.code == CODE == "verify.policy.signature"


def test_every_flipped_bit_of_a_signature(private_pem: bytes, trusted: tuple[PolicyKey, ...]) -> None:
    made = signed(document(), private_pem)
    value = base64.b64decode(made["signature"]["value"])
    for position in range(0, len(value) * 8, 7):
        wrong = bytearray(value)
        wrong[position // 8] ^= 1 << position % 8
        spoilt = {**made, "signature": {**made["signature"], "value": base64.b64encode(wrong).decode()}}
        with pytest.raises(SignatureInvalid):
            verified(Policy.parse(spoilt), trusted)


def test_another_key_and_no_key(private_pem: bytes, trusted: tuple[PolicyKey, ...]) -> None:
    rogue = rsa.generate_private_key(65537, 2048)
    made = Policy.parse(signed(document(), rogue.private_bytes(PEM, PKCS8, NONE)))
    with pytest.raises(SignatureInvalid, match="none of the 1 trusted keys"):
        verified(made, trusted)
    with pytest.raises(SignatureInvalid, match="none of the 0 trusted keys"):
        verified(Policy.parse(signed(document(), private_pem)), ())


def test_what_has_no_canonical_form(private_pem: bytes) -> None:
    for wrong in ({"number": 2**53}, {"text": "\ud800"}, {"number": float("inf")}):
        with pytest.raises(FormatError) as caught:
            signed(document(**wrong), private_pem)
        assert caught.value.code == "format.policy"
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FormatError, match="RecursionError"):
        canonical({"metadata": deep})


def test_only_a_policy_is_signed(private_pem: bytes) -> None:
    with pytest.raises(FormatError, match="not constrained"):
        signed({**document(), "validation_rules": {}}, private_pem)


def test_keys_that_sign_no_policy(private_pem: bytes, key: rsa.RSAPrivateKey) -> None:
    locked = key.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"x"))
    for wrong in (
        b"",
        locked,
        key.public_key().public_bytes(PEM, SPKI),
        ec.generate_private_key(ec.SECP384R1()).private_bytes(PEM, PKCS8, NONE),
        rsa.generate_private_key(65537, 1024).private_bytes(PEM, PKCS8, NONE),
    ):
        with pytest.raises(FormatError) as caught:
            signed(document(), wrong)
        assert caught.value.code == "format.key"
        assert "BEGIN" not in str(caught.value)


def certificate(key: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "policies")])
    long_ago = dt.datetime(2001, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, long_ago, long_ago + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)


def test_files_and_folders_of_keys(key: rsa.RSAPrivateKey, tmp_path: Path) -> None:
    other = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(PEM, SPKI)
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "a.pub").write_bytes(public)
    (folder / "b.pem").write_bytes(b"a comment\n" + public + certificate(other))  # expired: only its key counts
    (folder / "c.crt").write_bytes(certificate(key))
    (folder / "readme.txt").write_text("no key")
    assert len(load_keys([folder])) == 2
    assert len(load_keys([folder / "b.pem", folder / "a.pub"])) == 2
    pkcs1 = tmp_path / "pkcs1"
    pkcs1.write_bytes(key.public_key().public_bytes(PEM, serialization.PublicFormat.PKCS1))
    assert load_keys([pkcs1])[0].spki == load_keys([folder / "a.pub"])[0].spki
    assert load_keys([]) == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PEM certificate or public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "can't be read"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "can't be read"),
        (ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(PEM, SPKI), "RSA keys of 2048"),
        (rsa.generate_private_key(65537, 1024).public_key().public_bytes(PEM, SPKI), "RSA keys of 2048"),
        (rsa.generate_private_key(65537, 1024).private_bytes(PEM, PKCS8, NONE), "holds a private key"),
    ],
)
def test_files_without_a_usable_key(content: bytes, message: str, tmp_path: Path) -> None:
    place = tmp_path / "key.pem"
    place.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        load_keys([place])
    assert message in caught.value.message
    with pytest.raises(FormatError):
        load_keys([tmp_path])


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 0 files of keys"):
        load_keys([tmp_path])
    with pytest.raises(UsageError, match="can't be read"):
        load_keys([tmp_path / "missing"])
