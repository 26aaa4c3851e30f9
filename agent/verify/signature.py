"""Does a signature of an attested key verify? One function for every format (agent.core.algorithm has the forms)."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.core.algorithm import Algorithm

_CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ECDSA-P256": (ec.SECP256R1(), hashes.SHA256()),
    "ECDSA-P384": (ec.SECP384R1(), hashes.SHA384()),
    "ECDSA-secp256k1": (ec.SECP256K1(), hashes.SHA256()),
}


def verifies(algorithm: Algorithm, spki: bytes, signature: bytes, data: bytes) -> bool:
    """Whether ``signature`` (fixed size, canonical) is one over ``data`` by the key in ``spki`` (checked form).

    A key that is no point of its curve verifies nothing. Raises nothing.
    """
    if not algorithm.is_canonical(signature):
        return False
    raw = spki[len(algorithm.spki_prefix) :]
    try:
        if algorithm.name in _CURVES:
            curve, digest = _CURVES[algorithm.name]
            point = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + raw)
            point.verify(algorithm.to_der(signature), data, ec.ECDSA(digest))
        else:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature, data)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
