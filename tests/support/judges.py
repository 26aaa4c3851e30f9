"""Independent verifiers of our signature formats: joserfc and pycose, given nothing of ours but a public key."""

from __future__ import annotations

import warnings

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc import jwk as judge_jwk
from joserfc import jws as judge_jws
from pycose.keys.cosekey import CoseKey
from pycose.messages.sign1message import Sign1Message

from agent.core import cose, jws
from agent.core.algorithm import SECP256K1, of_spki


def public_jwk(spki: bytes) -> judge_jwk.Key:
    document: dict[str, str | list[str]] = {**jws.jwk(spki)}
    return judge_jwk.JWKRegistry.import_key(document)


def joserfc(spki: bytes, data: bytes, *, strict: bool = False) -> judge_jws.CompactSignature:
    """A compact JWS that joserfc verified; ``strict`` with its own bounds and headers only. Raises its errors."""
    registry = judge_jws.JWSRegistry(algorithms=[of_spki(spki).jose], strict_check_header=strict)
    if not strict:
        registry.max_header_length, registry.max_payload_length = 4096, 4 << 20
    with warnings.catch_warnings():
        # It says that RFC 9864 has a newer name for EdDSA; Debian 13's joserfc does not know that one.
        warnings.filterwarnings("ignore", message="EdDSA is deprecated")
        return judge_jws.deserialize_compact(data, public_jwk(spki), registry=registry)


def pycose(spki: bytes, data: bytes, detached: bytes | None = None) -> bool:
    """Whether pycose verifies a COSE_Sign1; ES256K, which it lacks, by RFC 9052 section 4.4 and cbor2."""
    # Its own decode() wants lists and dicts inside the tag, where cbor2 6 gives tuples.
    assert cbor2.loads(data).tag == 18
    parts = cbor2.loads(data[1:])
    if of_spki(spki).name == SECP256K1:
        return _es256k(spki, parts, detached)
    message = Sign1Message.from_cose_obj(parts, allow_unknown_attributes=True)
    message.key = CoseKey.from_dict(cose.cose_key(spki))
    return bool(message.verify_signature(detached))


def _es256k(spki: bytes, parts: list[bytes], detached: bytes | None) -> bool:
    protected, _, payload, signature = parts
    signed = cbor2.dumps(["Signature1", protected, b"", payload if detached is None else detached])
    fields = cose.cose_key(spki)
    x, y = (int.from_bytes(fields[label], "big") for label in (-2, -3))
    halves = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256K1()).public_key()
    public.verify(encode_dss_signature(*halves), signed, ec.ECDSA(hashes.SHA256()))
    return True
