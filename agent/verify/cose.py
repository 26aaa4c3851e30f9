"""Offline verification of a COSE_Sign1 with the key document of its signer. Numbered checks, as for a JWS:

1. form: of COSE_Sign1 and key document (failing is a FormatError); a detached payload is given, an attached one not
2. ``kid`` is the key's thumbprint, ``alg`` the key's own algorithm
3. the key's signature
4. the statement says that the key is for COSE, and its algorithm
5. payload, context and audience are the ones asked for
6. onwards: the key, as in agent.verify.keydoc from 3 on
"""

from __future__ import annotations

from agent.core import cose, keydoc
from agent.core.bundle_parts import Payload
from agent.core.errors import Oversized
from agent.verify.signed import Judge, KeyVerdict, Trial, required


def verify_cose(
    data: bytes,
    key_document: bytes,
    judge: Judge,
    *,
    payload: bytes | None = None,
    context: str | None = None,
    audience: str | None = None,
) -> KeyVerdict:
    """Verify one COSE_Sign1; what is None is not compared, and the verdict says so. The verdict has the payload.

    ``payload`` is required where it is detached. Raises UsageError, FormatError, VerificationError (with the checks
    made so far).
    """
    found, key = cose.decode(data), keydoc.decode(key_document)  # 1
    sign1 = found.sign1
    detached = sign1.payload is None
    if payload is not None and len(payload) > cose.MAX_PAYLOAD:
        raise Oversized(f"a COSE_Sign1 is over {cose.MAX_PAYLOAD} bytes at the most", record="COSE_Sign1")
    signed = sign1.signing_input(payload if detached else None)
    required(key, judge)
    trial = Trial("COSE_Sign1")
    trial.names_key(found.key_id, cose.thumbprint(key.spki))  # 2
    trial.signature(key, found.algorithm, sign1.signature, signed)  # 2, 3
    trial.use(key, cose.USE)  # 4
    content = (payload if detached else sign1.payload) or b""
    trial.asked("payload", payload, content, "the payload is not the one that was signed")  # 5
    trial.asked_text("context", context, found.context)
    trial.asked_text("audience", audience, found.audience)
    verified = trial.key(key, keydoc.report_data(key), judge)  # 6
    said = {
        "content_type": found.content_type,
        "context": found.context,
        "audience": found.audience,
        "detached": detached,
        "payload": Payload.of(content).to_json(),
    }
    return trial.verdict(key, verified, said, content)
