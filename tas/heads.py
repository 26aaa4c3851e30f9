"""Heads of audit logs that agents send with a key's evidence: judged, kept, and compared (docs/tas.md).

1. the key document's form, 2. the statement: its algorithm and time, 3. the evidence over key and statement: vendor's
chain to a trusted root, signature, REPORT_DATA, floor, 4. revocation was checked, 5. one of the stored policies, with
the TCB that it asks for: whom no policy knows has nothing to keep here. Then the head is held against those there.

No nonce is spent and no evidence made for this: it is the evidence that the key has anyway. Key documents are public:
who sends one need not be the machine that it is about, so nothing here believes the sender.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agent.core import keydoc
from agent.core.bundle_parts import Attachments
from agent.core.canonical import rfc3339
from agent.core.errors import FormatError, PolicyViolation, TeeAgentError
from agent.core.model import Tee, Verified
from agent.core.policy import Policy
from agent.verify.evidence import appraise
from agent.verify.keydoc import verify_key
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tas import policies
from tas.headstore import Head, HeadStore
from tas.limits import client_network
from tas.log import Log
from tas.request import Refused, failed
from tas.service import Answer, Record, printable, require_current_tcb, require_revocation, utc_now
from tas.trust import Material, update_of
from tdx.pcs import Update

MEASUREMENTS = ("measurement", "mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
CONTRADICTION = "The audit head contradicts an earlier one"


class HeadKeeper:
    """Decides about one key document at a time; for worker threads."""

    def __init__(self, store: HeadStore, log: Log, now: Callable[[], datetime] = utc_now) -> None:
        self._store = store
        self._log = log
        self._now = now

    def keep(self, document: bytes, material: Material, request_id: str, client: str) -> Answer:
        """Decide and log. Every refusal is an Answer; raises only ServerError and what is a bug."""
        record = Record({"request": request_id, "client": client})
        try:
            return self._decide(document, material, record, client_network(client))
        except Refused as refusal:
            record.fields |= {"status": refusal.status, "code": refusal.code, "reason": printable(refusal.message)}
            self._log.event("audit-head", **record.fields, verdict="refused")
            return Answer(refusal.status, {"error": refusal.text})

    def _decide(self, document: bytes, material: Material, record: Record, client: str) -> Answer:
        try:
            key = keydoc.decode(document)
        except FormatError as error:
            raise Refused(400, "Invalid key document", error.message, code=error.code) from error
        statement = key.statement
        record.fields |= {"tee": key.tee.value, "boot": statement.boot_id, "key": key.key_sha256.hex()}
        verified, policy = self._verified(document, key, material)
        record.verified(verified)
        record.fields["policy"] = policy.policy_id
        now = self._now()
        kept = self._store.keep(_head(key, verified, policy, rfc3339(now), client), now)
        seq = statement.audit.seq if statement.audit else None
        if kept and kept.alert:
            self._log.event("audit-head", **record.fields, seq=seq, verdict="alert", reason=kept.alert)
            return Answer(409, {"error": CONTRADICTION})
        self._log.event("audit-head", **record.fields, seq=seq, verdict="kept" if kept else "known")
        return Answer(200, {"audit_head": "kept" if kept else "known"})

    def _verified(self, document: bytes, key: Attachments, material: Material) -> tuple[Verified, Policy]:
        """Evidence that holds, and the first policy that it satisfies. Raises Refused."""
        reason: TeeAgentError = PolicyViolation("no policy is for this kind of evidence")
        for update, known in self._policies(key, material).items():
            judge = Judge(
                self._now(),
                Workload(any_workload=True),  # the policies below say which
                anchors=material.anchors,
                collateral=material.shelf.select(key.blob, update),
            )
            try:
                verified = verify_key(document, judge).verified
                if not material.unchecked_revocation:
                    require_revocation(verified)
            except TeeAgentError as error:
                reason = error
                continue
            for policy in known:
                try:
                    accepted = appraise(verified, policy=policy, update=update)
                    require_current_tcb(policy, accepted)
                except TeeAgentError as error:
                    reason = error
                else:
                    return accepted, policy
        raise failed(reason.message, code=reason.code) from reason

    def _policies(self, key: Attachments, material: Material) -> dict[Update, list[Policy]]:
        """The usable ones for this kind of evidence, by which of Intel's statements they want."""
        found: dict[Update, list[Policy]] = {}
        for stored in self._store.policies():
            try:
                policy = policies.parse(stored.document, material.policy_keys)
            except TeeAgentError:
                continue  # `tas check` names it
            if policy.tee is key.tee and policy.policy_id == stored.policy_id:
                found.setdefault(update_of(policy), []).append(policy)
        return found


def _head(key: Attachments, verified: Verified, policy: Policy, received: str, client: str) -> Head:
    statement = key.statement
    facts: dict[str, Any] = {
        "key_id": key.key_sha256.hex(),
        "use": statement.use,
        "owner": statement.owner,
        "audience": statement.audience,
        "tee": key.tee.value,
        "measurements": {name: str(verified.fields[name]) for name in MEASUREMENTS if name in verified.fields},
        "policy_id": policy.policy_id,
        "added_root": verified.added_root,
    }
    return Head(
        statement.digest().hex(),
        statement.boot_id,
        rfc3339(statement.created.astimezone(UTC)),
        statement.audit.seq if statement.audit else None,
        statement.audit.head if statement.audit else "",
        received,
        client,
        machine_of(verified),
        facts,
    )


def machine_of(verified: Verified) -> str:
    """What the hardware names the machine by, which software in it can't choose.

    SNP: REPORT_ID, random for each launch (AMD 56860, ATTESTATION_REPORT). TDX has no name for one domain: PPID, the
    platform that it runs on (Intel PCK certificate profile, section 1.3.5).
    """
    if verified.tee is Tee.SNP:
        return f"report-id:{verified.fields['report_id']}"
    return f"ppid:{verified.fields['pck']['ppid']}"
