"""Sealed data: encrypted under a root that only this TEE can get, bound to what it is for (docs/sealing.md).

A blob is canonical JSON ``{"ciphertext", "root", "salt", "type"}``. Its key and nonce are HKDF-SHA256 (RFC 5869) of the
root with the blob's own 32 random bytes for a salt and purpose and labels for info, so that no two blobs share a key
and a blob opens under its own purpose and labels only. AES-256-GCM; the other members are the associated data.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.core import canonical
from agent.core.binding import tagged
from agent.core.errors import FormatError, Oversized, SecretError, VerificationError
from agent.core.kdf import hkdf
from agent.core.model import Secret

TYPE = "tee-agent/sealed/v1"
DATA, KEY = "data", "key"
"""Purposes: what a caller seals, and the agent's own persistent keys."""
TAS, SNP_DERIVED = "tas", "snp-derived"
"""Kinds of roots."""
MAX_PLAINTEXT = 1 << 20
MAX_BLOB = (MAX_PLAINTEXT + 16) * 4 // 3 + 1024
"""Bytes of a blob at the most."""
MAX_LABEL, MAX_LABELS = 1024, 8
MIN_SECRET = 32
"""Bytes of what a root is made from; shorter ones could be guessed."""
_SALT, _KEY, _NONCE, _TAG, _ID = 32, 32, 12, 16, 8
_MEMBERS = frozenset({"ciphertext", "root", "salt", "type"})
_QUOTES = 8 * len(_MEMBERS)
"""In a blob at the most: twice as many as it has, so that one with a member too many is told by its name."""
_ROOT_ID = re.compile(r"(tas:[A-Za-z0-9_.-]{1,128}|snp-derived):[0-9a-f]{16}", re.ASCII)


@dataclass(slots=True, eq=False, repr=False)
class Sealer:
    """One root. ``root_id`` names it in public: ``tas:POLICY_ID:KEYID`` or ``snp-derived:KEYID``.

    KEYID is 16 hex digits that follow from the root, so that a blob tells which root it needs.
    """

    kind: str
    root_id: str
    _root: bytearray

    @classmethod
    def from_tas(cls, secret: Secret, policy_id: str) -> Sealer:
        """Of what the service released for ``policy_id``; wipes it. Raises SecretError below MIN_SECRET bytes."""
        return cls._made(TAS, f"{TAS}:{policy_id}", secret, policy_id.encode("ascii"))

    @classmethod
    def from_snp(cls, secret: Secret) -> Sealer:
        """Of a key that the chip derives for this guest; wipes it. Raises SecretError below MIN_SECRET bytes."""
        return cls._made(SNP_DERIVED, SNP_DERIVED, secret)

    @classmethod
    def _made(cls, kind: str, name: str, secret: Secret, *fields: bytes) -> Sealer:
        with secret:
            if len(secret) < MIN_SECRET:
                raise SecretError(
                    f"the secret for sealing has {len(secret)} bytes, {MIN_SECRET} are required",
                    hint="make one at the attestation service: tas secret create",
                    code="secret.short",
                )
            root = hkdf(secret.reveal(), b"", tagged("sealing-root", kind.encode(), *fields), _KEY)
        key_id = hkdf(root, b"", tagged("sealing-root-id"), _ID)
        return cls(kind, f"{name}:{key_id.hex()}", root)

    def seal(self, purpose: str, labels: tuple[str, ...], plaintext: bytes | bytearray) -> bytes:
        """The blob. Raises Oversized over MAX_PLAINTEXT, FormatError for labels out of bounds."""
        return self.seal_with(os.urandom(_SALT), purpose, labels, plaintext)

    def seal_with(self, salt: bytes, purpose: str, labels: tuple[str, ...], plaintext: bytes | bytearray) -> bytes:
        """The same with this ``salt`` (32 bytes). For test vectors: a salt must never be used again."""
        if len(plaintext) > MAX_PLAINTEXT:
            raise Oversized(f"{MAX_PLAINTEXT} bytes can be sealed at the most", record="plaintext")
        key, nonce = self._keys(salt, purpose, labels)
        head = {"root": self.root_id, "salt": salt.hex(), "type": TYPE}
        ciphertext = AESGCM(key).encrypt(nonce, plaintext, canonical.encode(head))
        return canonical.encode({**head, "ciphertext": canonical.b64(ciphertext)})

    def unseal(self, purpose: str, labels: tuple[str, ...], blob: bytes) -> bytearray:
        """The plaintext. Raises FormatError for what is no blob, VerificationError (``verify.sealed``): another root,
        purpose or label, or changed bytes."""
        sealed = decode(blob)
        if sealed.root_id != self.root_id:
            raise _refused(f"it is sealed under the root {sealed.root_id}, and the one in use is {self.root_id}")
        key, nonce = self._keys(sealed.salt, purpose, labels)
        try:
            return bytearray(AESGCM(key).decrypt(nonce, sealed.ciphertext, sealed.head))
        except InvalidTag as error:
            raise _refused("it was sealed for another namespace, context or purpose, or was changed") from error

    def _keys(self, salt: bytes, purpose: str, labels: tuple[str, ...]) -> tuple[bytearray, bytearray]:
        """Key and nonce of the blob with this salt."""
        fields = [text.encode() for text in (purpose, *labels)]
        if len(labels) > MAX_LABELS or any(len(field) > MAX_LABEL for field in fields):
            raise FormatError(f"at most {MAX_LABELS} labels of {MAX_LABEL} bytes", record="sealed")
        made = hkdf(self._root, salt, tagged("seal", *fields), _KEY + _NONCE)
        return made[:_KEY], made[_KEY:]

    def __repr__(self) -> str:
        return f"Sealer({self.root_id})"

    def __reduce__(self) -> Never:
        raise SecretError("a root is not to be pickled or copied")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A blob's parts; ``head`` is what its ciphertext is bound to."""

    root_id: str
    salt: bytes
    head: bytes
    ciphertext: bytes


def decode(blob: bytes) -> Sealed:
    """What anybody can read of a blob, strictly. Raises FormatError, Oversized."""
    if blob.count(b"{") > 1 or b"[" in blob or blob.count(b'"') > _QUOTES:
        # A megabyte of brackets takes its time to parse, and others wait for it.
        raise FormatError("sealed data: not an object of a few texts", record="sealed data")
    document = canonical.decode(blob, "sealed data", MAX_BLOB)
    fields = canonical.Reader(document, "sealed data", _MEMBERS)
    if fields.item("type") != TYPE:
        raise FormatError(f"sealed data: type is not {TYPE}", record="sealed data")
    head = canonical.encode({name: one for name, one in document.items() if name != "ciphertext"})
    return Sealed(
        fields.text("root", 160, _ROOT_ID, "the name of a root"),
        fields.hexadecimal("salt", _SALT),
        head,
        fields.base64("ciphertext", _TAG, MAX_PLAINTEXT + _TAG),
    )


def _refused(why: str) -> VerificationError:
    return VerificationError(
        f"this can't be unsealed here: {why}",
        hint="unseal with the context, and in the namespace, of sealing; docs/sealing.md says what changes a root",
        code="verify.sealed",
    )
