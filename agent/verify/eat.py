"""Offline verification of an EAT, JSON or CBOR, with nothing but itself. Numbered checks, the first that fails ends it:

1. form: of token and of the key document inside (failing is a FormatError)
2. ``kid`` is the key's thumbprint, ``alg`` the key's own algorithm
3. the key's signature
4. the statement says that the key is for EAT, and its algorithm
5. the token is in force, and inside the time of the key's statement
6. nonce and audience are the ones asked for
7. onwards: the key, as in agent.verify.keydoc from 3 on
"""

from __future__ import annotations

from typing import Any

from agent.core import cose, eat, jws, keydoc
from agent.core.canonical import rfc3339
from agent.core.errors import OutOfValidity, UsageError
from agent.verify.signed import Judge, KeyVerdict, Trial, required


def verify_eat(data: bytes, judge: Judge, *, nonce: bytes | None = None, audience: str | None = None) -> KeyVerdict:
    """Verify one token; what is None is not compared, and the verdict says so.

    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    if nonce is not None and not eat.NONCE_MIN <= len(nonce) <= eat.NONCE_MAX:
        raise UsageError(f"the nonce of an EAT has {eat.NONCE_MIN} to {eat.NONCE_MAX} bytes, not {len(nonce)}")
    token = eat.decode(data)  # 1
    key = keydoc.decode(token.document)
    required(key, judge)
    trial = Trial("EAT")
    is_json = token.form == eat.JSON
    trial.names_key(token.key_id, jws.thumbprint(key.spki) if is_json else cose.thumbprint(key.spki))  # 2
    trial.signature(key, token.algorithm, token.signature, token.signing_input)  # 2, 3
    trial.use(key, eat.USE)  # 4
    _check_time(trial, token.claims, judge)  # 5
    inside = eat.within(token.claims, key)
    trial.add("token within the statement", inside, "the token outlives its key's statement", OutOfValidity)
    trial.asked("nonce", nonce, token.claims.nonce, "the nonce is another one")  # 6
    trial.asked_text("audience", audience, token.claims.audience)
    verified = trial.key(key, keydoc.report_data(key), judge)  # 7
    return trial.verdict(key, verified, _said(token))


def _check_time(trial: Trial, claims: eat.Claims, judge: Judge) -> None:
    at, begun, ended = judge.at, claims.issued - judge.skew, claims.expires + judge.skew
    hint = "--at says for which instant to verify"
    early = f"the token is of {rfc3339(claims.issued)}, after {rfc3339(at)}"
    late = f"the token expired at {rfc3339(claims.expires)}, before {rfc3339(at)}"
    trial.add("token in force", begun <= at <= ended, early if at < begun else late, OutOfValidity, hint)


def _said(token: eat.Eat) -> dict[str, Any]:
    claims = token.claims
    return {
        "form": token.form,
        "profile": eat.PROFILE,
        "nonce": claims.nonce.hex(),
        "audience": claims.audience,
        "issued": rfc3339(claims.issued),
        "expires": rfc3339(claims.expires),
    }
