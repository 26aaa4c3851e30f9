"""HKDF-SHA256 (RFC 5869): keys out of a secret, one for each purpose. Pure."""

from __future__ import annotations

import hmac

from agent.core.errors import SecretError

MAX_SIZE = 64


def hkdf(secret: bytes | bytearray, salt: bytes, info: bytes, size: int) -> bytearray:
    """``size`` bytes. An empty ``salt`` is the RFC's default: 32 zero bytes. Raises SecretError beyond MAX_SIZE."""
    if not 0 < size <= MAX_SIZE:
        raise SecretError(f"a key of {size} bytes: 1 to {MAX_SIZE} can be made")
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    return bytearray(first + hmac.digest(extracted, first + info + b"\x02", "sha256"))[:size]
