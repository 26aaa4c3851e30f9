"""Offline verification of a bundle. Numbered checks, cheapest first; the first that fails ends it:

1. form: canonical, complete, at most 1 MiB (failing is a FormatError)
2. the key's signature over everything else in the bundle
3. the statement says that the key is for bundles, and its algorithm
4. the statement was in force
5. payload, context, audience, key and nonce are the ones asked for
6. fresh mode: the challenge is a leaf of the quoted tree
7. onwards: the evidence (snp.verify, tdx.verify) with the REPORT_DATA that binds the key; floor; policy

1 and 2 make every flipped bit fail; only 7 says whose key it is. Nothing is fetched.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from agent.core import bundle as form
from agent.core.errors import (
    BindingMismatch,
    FormatError,
    SignatureInvalid,
    VerificationError,
)
from agent.core.merkle import verify_proof
from agent.core.model import Check, Endorsements, TrustAnchor, Verified
from agent.core.policy import Floor, Policy, renumbered
from agent.verify.evidence import NO_POLICY, detect, verify_evidence
from agent.verify.report import checks_json, fresh_json, verified_json
from agent.verify.shelf import Shelf
from agent.verify.signature import verifies
from agent.verify.workload import Workload

SKEW = timedelta(minutes=5)
"""How far the guest's clock may be off the verifier's."""


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """A bundle that passed everything asked for. ``checks`` are numbered as above; ``not_checked`` says the rest."""

    bundle: form.Bundle
    verified: Verified
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For people's programs; docs/bundle.md has the members."""
        bundle, verified, statement = self.bundle, self.verified, self.bundle.attachments.statement
        return {
            "valid": True,
            "payload": bundle.payload.to_json(),
            "context": bundle.context,
            "audience": bundle.audience,
            "key": {"algorithm": bundle.attachments.algorithm.name, "sha256": bundle.attachments.key_sha256.hex()},
            "statement": statement.to_json(),
            "fresh": fresh_json(bundle.fresh),
            "evidence": verified_json(verified),
            "checks": checks_json(self.checks),
            "not_checked": list(self.not_checked),
        }


class _Made:
    """The checks made so far; a failing one ends the verification."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, name: str, ok: bool, problem: str, error: type[VerificationError], hint: str = "") -> None:
        self.checks.append(Check(len(self.checks) + 1, name, ok, "" if ok else problem))
        if not ok:
            raise error(problem, checks=self.checks, hint=hint)


def verify_bundle(
    data: bytes,
    payload: form.Payload | bytes | None = None,
    *,
    at: datetime,
    anchors: Sequence[TrustAnchor] | None = None,
    policy: Policy | None = None,
    measurement: bytes = b"",
    mrtd: bytes = b"",
    rtmrs: Mapping[int, bytes] | None = None,
    any_workload: bool = False,
    floor: Floor | None = None,
    nonce: bytes | None = None,
    audience: str | None = None,
    context: str | None = None,
    key: bytes | None = None,
    skew: timedelta = SKEW,
    collateral: Endorsements | Shelf | None = None,
) -> BundleVerdict:
    """Verify one bundle as of ``at``; what is None is not compared, and the verdict says so.

    ``anchors`` None means the vendors' roots only; ``key`` is the SHA-256 of the signer's SubjectPublicKeyInfo;
    ``collateral`` is the verifier's own and goes before the bundle's (a newer CRL, for example).
    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    workload = Workload(policy, measurement, mrtd, dict(rtmrs or {}), any_workload)
    expected = form.Payload.of(payload) if isinstance(payload, bytes) else payload
    asked = _Asked(expected, context, audience, key, nonce)
    bundle = form.decode(data)  # 1
    tee = bundle.attachments.tee
    if detect(bundle.attachments.blob) is not tee:
        raise FormatError(f"the evidence in the bundle is not of {tee}", record="bundle")
    own = collateral.select(bundle.attachments.blob) if isinstance(collateral, Shelf) else collateral
    endorsements = (own or Endorsements()).merged(bundle.attachments.endorsements)
    evidence = _Evidence(at, endorsements, anchors, workload.required(tee), floor)
    made = _Made()
    made.add("form: canonical and complete", True, "", VerificationError)
    _check_signature(made, bundle)  # 2
    _check_use(made, bundle)  # 3
    _check_time(made, bundle, at, skew)  # 4
    _check_asked(made, bundle, asked)  # 5
    _check_fresh(made, bundle)  # 6
    verified = _check_evidence(made, bundle, evidence)  # 7
    left_out = _left_out(bundle, asked, workload)
    left_out += [what for what in verified.not_checked if what != NO_POLICY]
    return BundleVerdict(bundle, verified, tuple(made.checks), tuple(dict.fromkeys(left_out)))


@dataclass(frozen=True, slots=True)
class _Asked:
    payload: form.Payload | None
    context: str | None
    audience: str | None
    key: bytes | None
    nonce: bytes | None


@dataclass(frozen=True, slots=True)
class _Evidence:
    at: datetime
    endorsements: Endorsements
    anchors: Sequence[TrustAnchor] | None
    policy: Policy | None
    floor: Floor | None


def _check_signature(made: _Made, bundle: form.Bundle) -> None:
    key = bundle.attachments
    ok = verifies(key.algorithm, key.spki, bundle.signature, bundle.signing_input())
    made.add("signature of the key", ok, "the bundle's signature does not verify", SignatureInvalid)


def _check_use(made: _Made, bundle: form.Bundle) -> None:
    statement, algorithm = bundle.attachments.statement, bundle.attachments.algorithm.name
    fits = statement.use == form.USE and statement.algorithm == algorithm
    problem = f"the statement says {statement.algorithm} for {statement.use}, not {algorithm} for {form.USE}"
    made.add("use of the key", fits, problem, VerificationError)


def _check_time(made: _Made, bundle: form.Bundle, at: datetime, skew: timedelta) -> None:
    try:
        bundle.attachments.statement.check_time(at, skew)
    except VerificationError as error:
        made.add("statement in force", False, error.message, type(error), error.hint)
    made.add("statement in force", True, "", VerificationError)


def _check_asked(made: _Made, bundle: form.Bundle, asked: _Asked) -> None:
    if asked.payload is not None:
        same = asked.payload.size == bundle.payload.size and _same(asked.payload.digest, bundle.payload.digest)
        made.add("payload", same, "the payload is not the one that was signed", BindingMismatch)
    if asked.context is not None:
        same = _same(asked.context.encode(), bundle.context.encode())
        made.add("context", same, f"the context is {bundle.context!a}", BindingMismatch)
    if asked.audience is not None:
        same = _same(asked.audience.encode(), bundle.audience.encode())
        made.add("audience", same, f"the signature is for {bundle.audience!a}", BindingMismatch)
    if asked.key is not None:
        found = bundle.attachments.key_sha256
        made.add("key", _same(asked.key, found), f"the key is sha256:{found.hex()}", BindingMismatch)
    if asked.nonce is not None:
        held = bundle.fresh is not None and _same(asked.nonce, bundle.fresh.nonce)
        problem = "the nonce is another one" if bundle.fresh else "the bundle is not fresh: it answers no nonce"
        made.add("nonce", held, problem, BindingMismatch)


def _same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _check_fresh(made: _Made, bundle: form.Bundle) -> None:
    fresh = bundle.fresh
    if fresh is None:
        return
    leaf = bundle.leaf().encode()
    proven = verify_proof(fresh.root, fresh.tree_size, fresh.index, leaf, fresh.path)
    made.add("challenge in the quoted tree", proven, "the challenge is not in the quoted tree", BindingMismatch)


def _check_evidence(made: _Made, bundle: form.Bundle, wanted: _Evidence) -> Verified:
    try:
        verified = verify_evidence(
            bundle.attachments.blob,
            wanted.endorsements,
            at=wanted.at,
            anchors=wanted.anchors,
            report_data=bundle.report_data(),
            policy=wanted.policy,
            floor=wanted.floor,
        )
    except VerificationError as error:
        error.checks = (*made.checks, *renumbered(error.checks, len(made.checks) + 1))
        raise
    if verified.fields.get("trailing_bytes"):
        raise FormatError("the quote in the bundle is padded", record="bundle")
    made.checks += renumbered(verified.checks, len(made.checks) + 1)
    return verified


def _left_out(bundle: form.Bundle, asked: _Asked, workload: Workload) -> list[str]:
    names = ("payload", "context", "audience", "key", "nonce")
    left_out = [f"{name}: not compared" for name in names if getattr(asked, name) is None]
    if workload.any_workload:
        left_out.append("workload: any was accepted")
    if bundle.attachments.statement.time_source == "guest":
        left_out.append("times in the statement: the guest's own claim")
    if bundle.fresh is None:
        left_out.append("freshness: the key's evidence may be as old as its statement")
    return left_out
