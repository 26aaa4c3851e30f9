"""The decision: does this evidence, bound to this nonce and key, get the secret that its policy names?

Order, and what each step costs the client:

1. tee-type and the nonce's form (nonce alive), 2. the nonce is spent, whatever comes after, 3. the other fields,
4. the policy, with its signature where keys are trusted for that, 5. evidence: vendor's chain to a trusted root,
signature, REPORT_DATA over nonce and wrapping key, floor, TCB, the policy's rules, 6. the wrapping key's form,
7. the secret.

Nothing here knows HTTP; it runs in worker threads, so that nonces are never kept waiting by a verification.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.core import binding
from agent.core.errors import FormatError, Revoked, TcbRejected, TeeAgentError
from agent.core.model import Tee, Verified
from agent.core.policy import Policy
from agent.core.tcbrule import TCB_PARTS, speaks_of
from agent.verify.evidence import appraised_fields, detect, verify_evidence
from tas import policies, request, wrap
from tas.log import Log, Value
from tas.nonces import Nonces
from tas.request import Refused, SecretRequest
from tas.store import Store
from tas.trust import Material, update_of

ADDED_ROOT = "added-root"
UP_TO_DATE = "UpToDate"
NOTHING_THERE = "Secret retrieval failed"
_LONG_HEX = re.compile(r"[0-9A-Fa-f]{32,}")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body of the reply."""

    status: int
    body: dict[str, Any]


@dataclass(slots=True)
class Record:
    """What the log will say about one decision."""

    fields: dict[str, Value] = field(default_factory=dict)

    def verified(self, verified: Verified) -> None:
        self.fields |= {
            "root": verified.root.name,
            "trust": ADDED_ROOT if verified.added_root else "genuine",
            "tcb": verified.tcb_status,
            "revocation": verified.revocation,
            "not_checked": list(verified.not_checked),
        }


def utc_now() -> datetime:
    return datetime.now(UTC)


class Service:
    """``material`` may be replaced while requests run: each request uses one set from start to end."""

    def __init__(
        self, store: Store, nonces: Nonces, material: Material, log: Log, now: Callable[[], datetime] = utc_now
    ) -> None:
        self.material = material
        self._store = store
        self._nonces = nonces
        self._log = log
        self._now = now

    def nonce(self) -> str:
        """64 lower-case hex characters. Raises ServerError when too many are alive."""
        return self._nonces.new().text

    def get_secret(self, body: Mapping[str, Any], request_id: str, client: str) -> Answer:
        """Decide and log. Every refusal is an Answer; raises only ServerError and what is a bug."""
        record = Record({"request": request_id, "client": client})
        try:
            answer = self._decide(body, record)
        except Refused as refusal:
            self._log.event(
                "decision",
                **record.fields,
                verdict="refused",
                status=refusal.status,
                code=refusal.code,
                reason=printable(refusal.message),
            )
            return Answer(refusal.status, {"error": refusal.text})
        self._log.event("decision", **record.fields, verdict="released", status=answer.status)
        return answer

    def _decide(self, body: Mapping[str, Any], record: Record) -> Answer:
        tee, nonce = request.opening(body)
        record.fields["tee"] = tee.value
        if not self._nonces.consume(nonce):
            raise request.bad_nonce("the nonce is unknown, expired or used")
        wanted = request.parse(body, tee, nonce)
        record.fields["policy"] = wanted.policy_id
        material = self.material
        policy = self._policy(wanted.policy_id, material)
        verified = self._verify(wanted, policy, material)
        record.verified(verified)
        return self._release(wanted, policy, verified, record)

    def _policy(self, policy_id: str, material: Material) -> Policy:
        stored = self._store.policy(policy_id)
        if stored is None:
            raise request.failed("there is no such policy", code="denied.policy-unknown")
        try:
            policy = policies.parse(stored.document, material.policy_keys)
        except TeeAgentError as exc:
            raise request.failed(f"the stored policy is unusable: {exc.message}", code=exc.code) from exc
        if policy.policy_id != policy_id:
            # Only somebody who writes into the database can do that: a signed policy must not answer to other names.
            raise request.failed("the policy stored by this id has another", code="denied.policy-unknown")
        return policy

    def _verify(self, wanted: SecretRequest, policy: Policy, material: Material) -> Verified:
        update = update_of(policy)
        try:
            if detect(wanted.evidence) is not wanted.tee:
                raise FormatError(f"the evidence is not of {wanted.tee.value}", record="evidence")
            verified = verify_evidence(
                wanted.evidence,
                material.shelf.select(wanted.evidence, update).merged(wanted.hints),
                at=self._now(),
                anchors=material.anchors,
                report_data=binding.tas(wanted.nonce, wanted.wrapping_key),
                policy=policy,
                update=update,
            )
            if not material.unchecked_revocation:
                require_revocation(verified)
            require_current_tcb(policy, verified)
        except TeeAgentError as exc:
            raise request.failed(exc.message, code=exc.code) from exc
        return verified

    def _release(self, wanted: SecretRequest, policy: Policy, verified: Verified, record: Record) -> Answer:
        try:
            key = wrap.load_key(wanted.wrapping_key)
        except FormatError as exc:
            raise Refused(404, NOTHING_THERE, exc.message, code=exc.code) from exc
        secret = self._store.secret(policy.key_id)
        if secret is None:
            raise Refused(
                404, "Secret retrieval failed", "the policy names no secret that exists", code="denied.no-secret"
            )
        record.fields["key"] = policy.key_id
        with secret:
            body: dict[str, Any] = {"secret_key": wrap.wrap(secret, key)}
        if verified.added_root:
            body["trust"] = ADDED_ROOT
        return Answer(200, body)


def require_revocation(verified: Verified) -> None:
    """Without CRLs a revoked key would pass: refused unless the admin said otherwise. Raises Revoked."""
    if verified.revocation == "not checked" or any(text.startswith("revocation") for text in verified.not_checked):
        raise Revoked("revocation could not be checked: a CRL of the chain is missing", code="verify.revoked.unknown")


def require_current_tcb(policy: Policy, verified: Verified) -> None:
    """A part whose status a TDX policy's `tcb` rule does not speak of must be UpToDate. Raises TcbRejected.

    So a quote without collateral, whose TCB nobody knows, gets nothing (TAS-PROTOCOL, section 3).
    """
    if verified.tee is not Tee.TDX:
        return
    rule, statuses = policy.rules.get("tcb"), appraised_fields(verified)["tcb"]
    for part in TCB_PARTS:
        status = statuses.get(part, "unknown")
        if not speaks_of(rule, part) and status != UP_TO_DATE:
            raise TcbRejected(f"{part} is {status}, {UP_TO_DATE} is required where the policy says nothing")


def printable(message: str) -> str:
    """A reason for the log: no long hex, which would be a piece of evidence or a key, and not too long."""
    return _LONG_HEX.sub("<hex>", message)[:500]
