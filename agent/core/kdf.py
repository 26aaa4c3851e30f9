"""HKDF-SHA256 (RFC 5869): keys out of a secret, one for each purpose. Pure."""

from __future__ import annotations

import hmac

MAX_SIZE = 64


def hkdf(secret: bytes | bytearray, salt: bytes, info: bytes, size: int) -> bytearray:
    """``size`` bytes (at most MAX_SIZE). An empty ``salt`` is the RFC's default: 32 zero bytes."""
    extracted = hmac.digest(salt or bytes(32), secret, "sha256")
    first = hmac.digest(extracted, info + b"\x01", "sha256")
    return bytearray(first + hmac.digest(extracted, first + info + b"\x02", "sha256"))[:size]
