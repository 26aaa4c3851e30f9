"""Published sealed data: docs/vectors/sealed.json. ``python -m tests.support.sealed_vectors`` makes it anew.

The steps are computed by other code than agent.sealing: HKDF of the library, JSON of the standard library.
"""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FILE = Path(__file__).resolve().parents[2] / "docs" / "vectors" / "sealed.json"
ABOUT = (
    "Sealed data. secret is what a root is made from: what the attestation service released for policy_id, or (kind"
    " snp-derived) what the quoter handed over. docs/sealing.md tells the steps. Binary values are lower-case hex;"
    " blob is the whole blob as text."
)
CASES = (
    ("tas", "sealing-1", "data", ("uid-1000", ""), b"a secret of an application"),
    ("tas", "sealing-1", "data", ("shop", "backup/2026"), b""),
    ("tas", "next_sealing.2", "key", ("shop", "receipts", "1"), bytes(range(256))),
    ("snp-derived", "", "data", ("uid-1000", 'a "quoted" context, \u00fc'), b"\0"),
)


def info(word: str, *fields: bytes) -> bytes:
    lengths = b"".join(struct.pack(">I", len(field)) + field for field in fields)
    return b"tee-agent/v1\0" + word.encode() + b"\0" + lengths


def hkdf(secret: bytes, salt: bytes | None, about: bytes, size: int) -> bytes:
    return HKDF(SHA256(), size, salt, about).derive(secret)


def case(number: int) -> dict[str, Any]:
    """One case with each step."""
    kind, policy_id, purpose, labels, plaintext = CASES[number]
    secret, salt = bytes(range(number, number + 32)), bytes(range(64 + number, 96 + number))
    root_info = info("sealing-root", kind.encode(), *([policy_id.encode()] if policy_id else []))
    root = hkdf(secret, None, root_info, 32)
    key_id = hkdf(root, None, info("sealing-root-id"), 8).hex()
    head = {"root": ":".join([kind, *([policy_id] if policy_id else []), key_id]), "salt": salt.hex()}
    head["type"] = "tee-agent/sealed/v1"
    key_info = info("seal", *(one.encode() for one in (purpose, *labels)))
    key = hkdf(root, salt, key_info, 44)
    aad = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    ciphertext = AESGCM(key[:32]).encrypt(key[32:], plaintext, aad)
    document = {**head, "ciphertext": base64.b64encode(ciphertext).decode()}
    steps = {
        "root_info": root_info,
        "root": root,
        "key_info": key_info,
        "key": key[:32],
        "nonce": key[32:],
        "associated_data": aad,
        "ciphertext": ciphertext,
    }
    return {
        "kind": kind,
        "policy_id": policy_id,
        "secret": secret.hex(),
        "purpose": purpose,
        "labels": list(labels),
        "salt": salt.hex(),
        "plaintext": plaintext.hex(),
        "root_id": head["root"],
        "steps": {name: value.hex() for name, value in steps.items()},
        "blob": json.dumps(document, sort_keys=True, separators=(",", ":")),
    }


def document() -> dict[str, Any]:
    return {"about": ABOUT, "cases": [case(number) for number in range(len(CASES))]}


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=2) + "\n")
