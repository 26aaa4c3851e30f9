"""What is derived from a released secret: the passphrase of our keyslot, and the key of the header's MAC.

Pure. HKDF-SHA256 (RFC 5869), salt ``tee-agent/v1/luks``, info ``label || 0 || (u32-be length || field)*`` over
volume UUID (ASCII), key id (ASCII) and binding generation (8 bytes, big endian); 32 bytes. Vector in docs/disk.md.
"""

from __future__ import annotations

import hmac
import struct
from typing import Any

from agent.core import canonical
from agent.core.errors import HeaderTampered, SecretError
from agent.core.model import Secret
from agent.disk.header import Header
from agent.disk.token import Binding

SALT = b"tee-agent/v1/luks"
MIN_SECRET = 32
"""Bytes that a released secret must have: our slot's cheap KDF rests on it."""


def checked(secret: Secret) -> Secret:
    """``secret``, if it is long enough. Raises SecretError (and wipes it) if not."""
    length = len(secret)
    if length < MIN_SECRET:
        secret.wipe()
        raise SecretError(
            f"the released secret has {length} bytes, {MIN_SECRET} are required",
            hint="make one at the attestation service: tas secret create",
            code="secret.short",
        )
    return secret


def passphrase(secret: Secret, uuid: str, binding: Binding) -> Secret:
    """What opens our keyslot: 32 bytes."""
    return derive(secret, "keyslot", uuid, binding)


def derive(secret: Secret, label: str, uuid: str, binding: Binding) -> Secret:
    """32 bytes for ``label`` ("keyslot" or "header-mac")."""
    fields = (uuid.encode("ascii"), binding.key_id.encode("ascii"), struct.pack(">Q", binding.generation))
    info = label.encode("ascii") + b"\0" + b"".join(struct.pack(">I", len(field)) + field for field in fields)
    extracted = hmac.digest(SALT, secret.reveal(), "sha256")
    return Secret(bytearray(hmac.digest(extracted, info + b"\x01", "sha256")))


def header_mac(secret: Secret, header: Header, binding: Binding) -> bytes:
    """HMAC-SHA256 over what pins the volume (``authenticated``)."""
    with derive(secret, "header-mac", header.uuid, binding) as key:
        return hmac.digest(key.reveal(), authenticated(header, binding), "sha256")


def authenticated(header: Header, binding: Binding) -> bytes:
    """Canonical JSON (RFC 8785) of UUID, segments and their digest, configuration, our keyslot and our token.

    Lists of keyslots, foreign slots and tokens, salts of the fixed part and sequence numbers are left out: they
    change when an admin adds or removes a passphrase, and can't change which volume key is accepted.
    """
    document = header.metadata.document
    digest = header.metadata.volume_digest
    config: dict[str, Any] = dict(document["config"])
    return canonical.encode(
        {
            "uuid": header.uuid,
            "segments": document["segments"],
            "digests": {str(digest.number): {k: v for k, v in digest.document.items() if k != "keyslots"}},
            "requirements": config.pop("requirements", {}),
            "config": config,
            "keyslot": document["keyslots"][str(binding.slot)],
            "token": binding.authenticated(),
        }
    )


def verify_mac(secret: Secret, header: Header, binding: Binding) -> None:
    """Raises HeaderTampered unless the token's MAC is that of this header under this secret."""
    if not hmac.compare_digest(header_mac(secret, header, binding), binding.mac):
        raise HeaderTampered(
            f"volume {header.uuid}: the header is not the one that was bound, or the secret of policy "
            f"{binding.key_id} is not the one it was bound with",
            hint="if neither header nor secret was changed on purpose, take the disk for tampered with and don't "
            "type a passphrase; restore the header from its backup, or the secret at the attestation service",
        )
