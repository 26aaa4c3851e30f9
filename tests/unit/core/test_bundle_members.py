"""The attachments' members are written by hand: byte for byte what the reference encoder of RFC 8785 makes of them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.core.bundle import Attachments
from agent.core.model import Endorsements, Tee
from tests.support.bundles import statement

SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP256K1())
SPKIS = [
    Ed25519PrivateKey.generate().public_key().public_bytes(*SPKI),
    *(ec.generate_private_key(curve).public_key().public_bytes(*SPKI) for curve in CURVES),
]
OBJECTS = st.lists(st.binary(max_size=40), max_size=4).map(tuple)
VENDOR = st.builds(Endorsements, OBJECTS, OBJECTS, st.binary(max_size=40), st.binary(max_size=40))


@pytest.mark.parametrize("spki", SPKIS, ids=["ed25519", "p256", "p384", "secp256k1"])
@given(tee=st.sampled_from(Tee), blob=st.binary(min_size=1, max_size=80), vendor=VENDOR)
def test_members_are_the_reference_encoders(spki: bytes, tee: Tee, blob: bytes, vendor: Endorsements) -> None:
    made = Attachments(tee, blob, vendor, spki, statement(datetime(2026, 11, 22, tzinfo=UTC), owner="uid-\u00e9"))
    assert made.members == {name: rfc8785.dumps(value) for name, value in made.to_json().items()}
