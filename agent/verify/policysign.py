"""Who wrote this policy: RSA signatures over its canonical form, checked against keys that an admin trusts.

Signed is RFC 8785 of every top-level member but ``signature``; ``signature`` is {algorithm, padding, value}: SHA-384
always, padding "PSS" (also where it is absent) or, by any other name, PKCS#1 v1.5, value in base64. The form is the
public service's, so its signatures hold here and ours there. A key is trusted as it is: dates and issuers of a
certificate that carries it mean nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from agent.core.canonical import shown
from agent.core.errors import FormatError, SignatureInvalid, UsageError
from agent.core.policy import Policy
from agent.verify.files import read_file

KEY_BITS = range(2048, 8193)
MAX_FILE = 1 << 16
"""Bytes of a file of keys or of a private key."""
MAX_FILES = 256
SUFFIXES = frozenset({".pem", ".crt", ".cer", ".pub"})
"""What is read in a folder of trusted keys."""
CODE = "verify.policy.signature"

# A block ends at the next five dashes: a file full of BEGINs must not be read to its end for each of them.
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----(?:[^-]|-(?!----))*-----END \1-----")
_HASH = hashes.SHA384()


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """A public key that may sign policies: SubjectPublicKeyInfo (DER) and where it was found."""

    name: str
    spki: bytes

    @property
    def sha256(self) -> str:
        """Hex of the digest by which the key is shown."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def rsa(self) -> rsa.RSAPublicKey:
        return _require_rsa(serialization.load_der_public_key(self.spki), self.name)


def load_keys(places: Sequence[Path]) -> tuple[PolicyKey, ...]:
    """Every key in these PEM files (certificates or public keys) and folders of them (SUFFIXES), each once.

    Raises UsageError for what can't be read or holds no key, FormatError for a key that can't sign policies.
    """
    found = {key.spki: key for place in places for path in _files(place) for key in _keys_in(path)}
    return tuple(found.values())


def verified(policy: Policy, keys: Sequence[PolicyKey]) -> Policy:
    """The same policy with its ``signer``. Raises SignatureInvalid (CODE) unless one of ``keys`` signed it."""
    signature = policy.document.get("signature")
    if not isinstance(signature, Mapping) or not signature.get("value"):
        raise _unsigned(f"policy {policy.policy_id} is not signed", "tas policy sign makes a signed one")
    value, scheme = _value(signature), _padding(signature)
    data = canonical(policy.document)
    for key in keys:
        try:
            key.rsa.verify(value, data, scheme, _HASH)
        except InvalidSignature:
            continue
        return replace(policy, signer=f"sha256:{key.sha256}")
    raise _unsigned(
        f"policy {policy.policy_id}: none of the {len(keys)} trusted keys signed it",
        "it was changed since it was signed, or its key is not among those of --policy-trust",
    )


def signed(document: Mapping[str, Any], private_key: bytes) -> dict[str, Any]:
    """The document with a new ``signature``, PSS. ``private_key`` is PEM, without a passphrase.

    Raises FormatError for a document that is no policy, and for a key that is none.
    """
    Policy.parse(document)
    try:
        key = serialization.load_pem_private_key(private_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause stays out: its text may quote the file.
        raise _bad_key("the key is not an RSA private key in PEM without a passphrase") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _bad_key("the key is not an RSA private key in PEM without a passphrase")
    _require_rsa(key.public_key(), "the key")
    bare = {name: value for name, value in document.items() if name != "signature"}
    scheme = padding.PSS(padding.MGF1(_HASH), padding.PSS.DIGEST_LENGTH)
    value = base64.b64encode(key.sign(canonical(bare), scheme, _HASH)).decode("ascii")
    return {**bare, "signature": {"algorithm": "SHA384", "padding": "PSS", "value": value}}


def canonical(document: Mapping[str, Any]) -> bytes:
    """What is signed. Raises FormatError for what has no canonical form (an integer above 2^53, for example)."""
    try:
        return rfc8785.dumps({name: value for name, value in document.items() if name != "signature"})
    except (rfc8785.CanonicalizationError, UnicodeError, RecursionError) as error:
        raise FormatError(
            f"policy: not expressible as canonical JSON: {type(error).__name__}", record="policy", code="format.policy"
        ) from error


def _value(signature: Mapping[str, Any]) -> bytes:
    text = signature["value"]
    try:
        if isinstance(text, str) and len(text) <= MAX_FILE:
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise _unsigned("the policy's signature.value is not base64", "sign it again")


def _padding(signature: Mapping[str, Any]) -> padding.AsymmetricPadding:
    name = signature.get("padding", "PSS")
    if name == "PSS":
        return padding.PSS(padding.MGF1(_HASH), padding.PSS.AUTO)
    return padding.PKCS1v15()


def _unsigned(message: str, hint: str) -> SignatureInvalid:
    return SignatureInvalid(message, hint=hint, code=CODE)


def _files(place: Path) -> Iterator[Path]:
    if not place.is_dir():
        yield place
        return
    try:
        found = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except OSError as error:
        raise UsageError(f"{shown(str(place))} can't be read: {error.strerror}") from error
    if not 0 < len(found) <= MAX_FILES:
        raise UsageError(
            f"{shown(str(place))} has {len(found)} files of keys, 1 to {MAX_FILES} are expected",
            hint=f"PEM files named *{', *'.join(sorted(SUFFIXES))}",
        )
    yield from found


def _keys_in(path: Path) -> list[PolicyKey]:
    data = read_file(str(path), MAX_FILE)
    found = [
        PolicyKey(path.name, _spki(match.group(1).decode("ascii"), match.group(), path.name))
        for match in _BLOCK.finditer(data)
    ]
    if not found:
        raise FormatError(f"{shown(path.name)}: no PEM certificate or public key is there", record="policy-trust")
    return found


def _spki(kind: str, pem: bytes, name: str) -> bytes:
    if "PRIVATE" in kind:
        raise _bad_key(f"{shown(name)} holds a private key", "give the public key: openssl pkey -pubout")
    is_certificate = kind == "CERTIFICATE"
    try:
        key: object = (
            x509.load_pem_x509_certificate(pem).public_key()
            if is_certificate
            else serialization.load_pem_public_key(pem)
        )
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _bad_key(f"{shown(name)}: a {kind} in it can't be read") from error
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _require_rsa(key, name).public_bytes(serialization.Encoding.DER, form)


def _require_rsa(key: object, name: str) -> rsa.RSAPublicKey:
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in KEY_BITS:
        raise _bad_key(
            f"{shown(name)}: policies are signed by RSA keys of {KEY_BITS.start} to {KEY_BITS.stop - 1} bits"
        )
    return key


def _bad_key(message: str, hint: str = "") -> FormatError:
    return FormatError(message, record="policy-trust", hint=hint, code="format.key")
