"""Intel's production root, known by its key. No certificate is kept here: it comes with every quote."""

from __future__ import annotations

from agent.core.model import TrustAnchor

GENUINE: tuple[TrustAnchor, ...] = (
    TrustAnchor(
        name="Intel SGX Root CA",
        spki_sha256=bytes.fromhex("a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"),
        genuine=True,
    ),
)
"""SHA-256 of the SubjectPublicKeyInfo in https://certificates.trustedservices.intel.com/IntelSGXRootCA.der.

Intel issued the root certificate twice for this key (ends 2033 and 2049): the key is what both have in common.
"""
