"""Which volume it is, without any secret: the pin of a volume in the measured configuration.

A host can put a volume of its own in place, with a passphrase that it knows. Attestation finds out by the header's
MAC; a typed passphrase proves nothing. The pin is SHA-256 over canonical JSON (RFC 8785) of the header's UUID, data
segment and volume-key digest: whoever does not know the volume key can't make a keyslot for it.
"""

from __future__ import annotations

import hashlib
import hmac

from agent.core import canonical
from agent.core.config import VolumeConfig
from agent.core.errors import HeaderTampered
from agent.disk.header import Header


def of(header: Header) -> bytes:
    """32 bytes. ``{"uuid", "segments", "digest"}``, the digest without its list of keyslots."""
    digest = {key: value for key, value in header.metadata.volume_digest.document.items() if key != "keyslots"}
    document = {"uuid": header.uuid, "segments": header.metadata.document["segments"], "digest": digest}
    return hashlib.sha256(canonical.encode(document)).digest()


def verify(config: VolumeConfig, header: Header) -> bool:
    """True when the volume is the pinned one, False when none is pinned. Raises HeaderTampered."""
    if config.volume_key is None:
        return False
    if not hmac.compare_digest(of(header), config.volume_key):
        raise HeaderTampered(
            f"volume {config.name}: volume key, cipher or UUID are not the pinned ones (volume_key)",
            hint="if it was re-encrypted on purpose, pin it anew; else this disk was exchanged: type no passphrase",
            code="disk.tampered.pin",
        )
    return True
