"""Offline verification of a JWS with the key document of its signer. Numbered checks, the first that fails ends it:

1. form: of JWS and key document (failing is a FormatError)
2. ``kid`` is the key's thumbprint, ``alg`` the key's own algorithm
3. the key's signature
4. the statement says that the key is for JWS, and its algorithm
5. payload, context and audience are the ones asked for
6. onwards: the key, as in agent.verify.keydoc from 3 on
"""

from __future__ import annotations

from agent.core import jws, keydoc
from agent.core.bundle_parts import Payload
from agent.verify.signed import Judge, KeyVerdict, Trial, required


def verify_jws(
    data: bytes,
    key_document: bytes,
    judge: Judge,
    *,
    payload: bytes | None = None,
    context: str | None = None,
    audience: str | None = None,
) -> KeyVerdict:
    """Verify one JWS; what is None is not compared, and the verdict says so. The verdict has the payload.

    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    found, key = jws.decode(data), keydoc.decode(key_document)  # 1
    required(key, judge)
    trial = Trial("JWS")
    trial.names_key(found.key_id, jws.thumbprint(key.spki))  # 2
    trial.signature(key, found.algorithm, found.compact.signature, found.compact.signing_input)  # 2, 3
    trial.use(key, jws.USE)  # 4
    content = found.compact.payload
    trial.asked("payload", payload, content, "the payload is not the one that was signed")  # 5
    trial.asked_text("context", context, found.context)
    trial.asked_text("audience", audience, found.audience)
    verified = trial.key(key, keydoc.report_data(key), judge)  # 6
    said = {
        "typ": found.typ,
        "context": found.context,
        "audience": found.audience,
        "payload": Payload.of(content).to_json(),
    }
    return trial.verdict(key, verified, said, content)
