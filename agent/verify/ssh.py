"""Offline verification of an ssh file signature with the key document of its signer. Numbered checks, as for a JWS:

1. form: of the armored SSHSIG and the key document (failing is a FormatError)
2. the signature's public key is the key document's
3. the key's signature, over namespace, hash and the payload's digest
4. the statement says that the key is for ssh, and its algorithm
5. the namespace is the context asked for
6. onwards: the key, as in agent.verify.keydoc from 3 on

An ssh file signature does not hold what it signs, so the payload is required.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from agent.core import keydoc, sshsig
from agent.core.bundle_parts import Payload
from agent.core.errors import BindingMismatch, UsageError
from agent.core.sshwire import PublicKey
from agent.verify.kinds import SSH
from agent.verify.signed import Judge, KeyVerdict, Trial, required


def verify_ssh(
    data: bytes, key_document: bytes, judge: Judge, *, payload: Iterable[bytes] | Payload, context: str | None = None
) -> KeyVerdict:
    """Verify one armored SSHSIG over ``payload``, in chunks or by its digest; a context of None is not compared.

    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    found, key = sshsig.decode(data), keydoc.decode(key_document)  # 1
    required(key, judge)
    public = PublicKey.of(key.spki)
    digest, size = _digest(payload, found.hash)
    trial = Trial(SSH)
    trial.add("key", found.key == public.blob, f"the {SSH} is by another key", BindingMismatch, _HINT)  # 2
    trial.signed(key, public.unwrap(found.signature), found.signed(digest).encode())  # 3
    trial.use(key, sshsig.USE)  # 4
    trial.asked_text("context", context, found.namespace)  # 5
    verified = trial.key(key, keydoc.report_data(key), judge)  # 6
    said = {
        "context": found.namespace,
        "ssh": public.line(),
        "payload": {"algorithm": found.hash.replace("sha", "sha-"), "digest": digest.hex(), "size": size},
    }
    return trial.verdict(key, verified, said)


_HINT = "the key document must be that of the signing key"


def _digest(payload: Iterable[bytes] | Payload, name: str) -> tuple[bytes, int]:
    if isinstance(payload, Payload):
        if name != sshsig.HASH:
            raise UsageError(f"the signature is over a {name} digest of the payload: give the payload itself")
        return payload.digest, payload.size
    found, size = hashlib.new(name), 0
    for chunk in payload:
        found.update(chunk)
        size += len(chunk)
    return found.digest(), size
