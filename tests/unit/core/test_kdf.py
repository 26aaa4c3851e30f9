"""HKDF-SHA256 against the RFC's own vectors and the cryptography package, and what it refuses to make."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import SecretError
from agent.core.kdf import MAX_SIZE, hkdf


def test_the_rfc_s_vectors() -> None:
    """RFC 5869, A.1 and A.3."""
    ikm, salt, info = bytes([0x0B]) * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    one = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf(ikm, salt, info, 42).hex() == one
    three = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf(ikm, b"", b"", 42).hex() == three


@given(st.binary(min_size=1, max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.integers(1, MAX_SIZE))
def test_another_implementation_agrees(secret: bytes, salt: bytes, info: bytes, size: int) -> None:
    assert hkdf(secret, salt, info, size) == HKDF(SHA256(), size, salt or None, info).derive(secret)


@pytest.mark.parametrize("size", [-1, 0, MAX_SIZE + 1])
def test_a_key_is_never_shorter_than_what_was_asked_for(size: int) -> None:
    with pytest.raises(SecretError):
        hkdf(b"x" * 32, b"", b"", size)
