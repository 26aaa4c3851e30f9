"""Published key documents, JWS, COSE_Sign1, EAT and ssh signatures: docs/vectors/{key,jws,cose,eat,ssh}.json.

``python -m tests.support.format_vectors`` makes them anew. The evidence is simulated, under throw-away roots that stand
beside it; the keys are test keys of standards (RFC 8032 section 7.1, RFC 6979 A.2.5 and A.2.6) and, on secp256k1, 1 to 32.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core import cbor, cose, eat, jws, keydoc, sshsig
from agent.core.algorithm import ALGORITHMS
from agent.core.canonical import rfc3339
from agent.core.sshwire import NAMES, PublicKey
from agent.core.statement import MEMORY, now_in_seconds
from agent.daemon.privatekey import PrivateKey
from sim.keys import pem
from tests.support.formats import AUDIENCE, CONTEXT, NONCE, PAYLOAD, Party
from tests.support.simulator import machine

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "vectors"
SECRETS = {
    "Ed25519": "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "ECDSA-P256": "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
    "ECDSA-P384": "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5",
    "ECDSA-secp256k1": bytes(range(1, 33)).hex(),
}
STORAGES = {"ECDSA-P256": "snp-derived", "ECDSA-P384": "tas"}
"""Where the key is kept, for it to be said in each way: the others in memory."""
ABOUT = (
    "Signatures over simulated evidence: each case verifies at verify_at under its root_pem, an added root, with any"
    " workload. docs/formats.md tells the steps. Binary values are lower-case hex; private_key is the seed (Ed25519) or"
    " the secret number."
)


def fixed_key(algorithm: str) -> PrivateKey:
    """The published test key of ``algorithm``."""
    key, secret = PrivateKey(ALGORITHMS[algorithm]), bytes.fromhex(SECRETS[algorithm])
    if isinstance(key._key, Ed25519PrivateKey):
        key._key = Ed25519PrivateKey.from_private_bytes(secret)
    else:
        key._key = ec.derive_private_key(int.from_bytes(secret, "big"), key._key.curve)
    key.spki = key._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key


def key_steps(document: bytes) -> dict[str, Any]:
    """What a verifier computes from a key document."""
    key = keydoc.decode(document)
    return {
        "statement_digest": key.statement.digest().hex(),
        "key_sha256": key.key_sha256.hex(),
        "report_data": keydoc.report_data(key).value.hex(),
        "jwk": jws.jwk(key.spki),
        "jwk_thumbprint": jws.thumbprint(key.spki),
        "cose_key": cbor.encode(cose.cose_key(key.spki)).hex(),
        "cose_thumbprint": cose.thumbprint(key.spki).hex(),
    }


def jws_steps(data: bytes) -> dict[str, Any]:
    """What a verifier takes a JWS apart to, an EAT's included."""
    found = jws.decode_compact(data, eat.MAX_BYTES)
    return {
        "header": found.header,
        "payload": found.payload.hex(),
        "signing_input": found.signing_input.decode("ascii"),
        "signature": found.signature.hex(),
    }


def cose_steps(data: bytes, detached: bytes | None) -> dict[str, Any]:
    """The same for a COSE_Sign1."""
    found = cose.decode_sign1(data, eat.MAX_BYTES)
    return {
        "protected": found.protected.hex(),
        "header": {str(name): v.hex() if isinstance(v, bytes) else v for name, v in found.header.items()},
        "payload": None if found.payload is None else found.payload.hex(),
        "sig_structure": found.signing_input(detached).hex(),
        "signature": found.signature.hex(),
    }


def eat_steps(data: bytes, form: str) -> dict[str, Any]:
    """The same for a token, its two long members by their SHA-256, and what it claims."""
    token = eat.decode(data)
    parts = jws_steps(data) if form == eat.JSON else cose_steps(data, None)
    payload = bytes.fromhex(parts.pop("payload"))
    for name in ("signing_input", "sig_structure"):
        parts.pop(name, None)
    return {
        **parts,
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "signing_input_sha256": hashlib.sha256(token.signing_input).hexdigest(),
        "nonce": token.claims.nonce.hex(),
        "audience": token.claims.audience,
        "issued": rfc3339(token.claims.issued),
        "expires": rfc3339(token.claims.expires),
        "key_document": token.document.decode(),
    }


def ssh_steps(data: bytes, payload: bytes) -> dict[str, Any]:
    """What a verifier takes an ssh signature apart to, and what it is over; what is signed for a login beside it."""
    found = sshsig.decode(data)
    digest = hashlib.new(found.hash, payload).digest()
    return {
        "public_key": found.key.hex(),
        "namespace": found.namespace,
        "hash": found.hash,
        "digest": digest.hex(),
        "signed": found.signed(digest).encode().hex(),
        "signature": found.signature.hex(),
    }


def _case(state: Path, at: datetime, use: str, algorithm: str) -> tuple[Party, dict[str, Any]]:
    hardware = machine("tdx" if algorithm == "ECDSA-P384" else "snp", state)
    party = Party.on(hardware, at, use, algorithm, storage=STORAGES.get(algorithm, MEMORY))
    party = replace(party, private=fixed_key(algorithm))
    root = pem(hardware.root).decode("ascii")
    return party, {"algorithm": algorithm, "private_key": SECRETS[algorithm], "root_pem": root}


def _key(state: Path, at: datetime, algorithm: str) -> dict[str, Any]:
    party, case = _case(state, at, "raw", algorithm)
    document = party.document()
    return case | {"key_document": document.decode(), "steps": key_steps(document)}


def _jws(state: Path, at: datetime, algorithm: str) -> dict[str, Any]:
    party, case = _case(state, at, "jws", algorithm)
    made = party.jws()
    return case | {"key_document": party.document().decode(), "jws": made.decode(), "steps": jws_steps(made)}


def _cose(state: Path, at: datetime, algorithm: str) -> dict[str, Any]:
    party, case = _case(state, at, "cose", algorithm)
    detached = algorithm == "ECDSA-P384"
    made = party.cose(detached=detached, content_type="text/plain")
    steps = cose_steps(made, PAYLOAD if detached else None)
    return case | {"key_document": party.document().decode(), "cose": made.hex(), "steps": steps}


def _eat(state: Path, at: datetime, algorithm: str) -> dict[str, Any]:
    party, case = _case(state, at, "eat", algorithm)
    form = eat.CBOR if algorithm == "ECDSA-P384" else eat.JSON
    made = party.eat(at, form, nonce=NONCE)
    text = made.decode() if form == eat.JSON else made.hex()
    return case | {"form": form, "eat": text, "steps": eat_steps(made, form)}


def _ssh(state: Path, at: datetime, algorithm: str) -> dict[str, Any]:
    party, case = _case(state, at, "ssh", algorithm)
    made = party.ssh(name="sha256" if algorithm == "ECDSA-P256" else "sha512")
    parts = {"public_line": PublicKey.of(party.spki).line(), "ssh": made.decode(), "steps": ssh_steps(made, PAYLOAD)}
    return case | {"key_document": party.document().decode(), **parts}


def make(name: str, state: Path) -> Mapping[str, Any]:
    at = now_in_seconds(datetime.now(UTC))
    case = partial({"key": _key, "jws": _jws, "cose": _cose, "eat": _eat, "ssh": _ssh}[name], state, at)
    algorithms = {"eat": ("Ed25519", "ECDSA-P384"), "ssh": tuple(NAMES)}.get(name, tuple(ALGORITHMS))
    asked = {"payload": PAYLOAD.hex(), "context": CONTEXT, "audience": AUDIENCE} if name in ("jws", "cose") else {}
    asked = {"payload": PAYLOAD.hex(), "context": CONTEXT} if name == "ssh" else asked
    return {"about": ABOUT, "verify_at": rfc3339(at), **asked, "cases": [case(one) for one in algorithms]}


TITLES = ("key", "jws", "cose", "eat", "ssh")

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for title in TITLES:
            (FOLDER / f"{title}.json").write_text(json.dumps(make(title, Path(folder)), indent=1) + "\n")
