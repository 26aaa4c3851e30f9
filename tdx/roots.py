"""Intel's pins: the production root by its key, and who signs quoting enclaves. No certificate is kept here."""

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

QE_MRSIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
"""MRSIGNER of Intel's quoting enclaves: no other enclave may vouch for an attestation key, collateral or not."""
QE_PRODUCT = 2
"""ISVPRODID of the quoting enclave for TDX."""
