"""Bundles over simulated evidence, made as the daemon makes them, and made wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core import binding
from agent.core.bundle import ALGORITHM, Attachments, Bundle, Fresh, Payload
from agent.core.challenge import Leaf
from agent.core.merkle import Tree
from agent.core.model import Endorsements, ReportData, Tee
from agent.core.statement import AuditHead, Statement, now_in_seconds
from agent.verify.evidence import unpadded
from sim.export import Machine
from sim.qe import QuotingEnclave

PAYLOAD = b"what was to be signed\n"
BOOT_ID = "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11"
NONCE = b"a relying party's own nonce"


def spki(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def statement(at: datetime, **changes: Any) -> Statement:
    """A key's statement in force from an hour before ``at`` to eight hours after."""
    made = Statement(
        use="bundle",
        algorithm=ALGORITHM,
        created=now_in_seconds(at) - timedelta(hours=1),
        expires=now_in_seconds(at) + timedelta(hours=8),
        owner="uid:0",
        audience="relying.example",
        storage="memory",
        boot_id=BOOT_ID,
        time_source="guest",
        tas_nonce=None,
        agent_version="0.1.0",
        audit=AuditHead(41, "5e" * 32),
    )
    return replace(made, **changes)


@dataclass(frozen=True)
class Signer:
    """A machine with a key and its statement: what the daemon is."""

    machine: Machine
    key: Ed25519PrivateKey
    statement: Statement

    @classmethod
    def on(cls, machine: Machine, at: datetime | None = None, **changes: Any) -> Signer:
        return cls(machine, Ed25519PrivateKey.generate(), statement(at or datetime.now(UTC), **changes))

    @property
    def tee(self) -> Tee:
        return Tee.TDX if isinstance(self.machine, QuotingEnclave) else Tee.SNP

    @property
    def scope(self) -> binding.Scope:
        return binding.Scope(self.statement.audience, self.statement.boot_id)

    def key_report_data(self) -> ReportData:
        made = self.statement
        return binding.signing_key(self.scope, made.algorithm, made.use, spki(self.key), made.digest())

    def quote(self, report_data: ReportData, *, debug: bool = False) -> bytes:
        """The evidence, without padding."""
        return unpadded(self.machine.report(report_data.value, 0, debug=debug).outblob)

    def attachments(self, blob: bytes | None = None, endorsements: Endorsements | None = None) -> Attachments:
        found = self.machine.endorsements() if endorsements is None else endorsements
        return Attachments(self.tee, blob or self.quote(self.key_report_data()), found, spki(self.key), self.statement)

    def sign(self, draft: Bundle) -> Bundle:
        return draft.signed(self.key.sign(draft.signing_input()))

    def bundle(self, attachments: Attachments | None = None, **changes: Any) -> Bundle:
        """A signed bundle over PAYLOAD."""
        draft = Bundle(Payload.of(PAYLOAD), "release", "relying.example", attachments or self.attachments())
        return self.sign(replace(draft, **changes))

    def fresh_bundle(self, nonce: bytes = NONCE, others: int = 4) -> Bundle:
        """A signed bundle that answers ``nonce``, as one leaf among others."""
        payload, index = Payload.of(PAYLOAD), others // 2
        leaf = Leaf(
            random=bytes(range(32)),
            nonce=nonce,
            payload_digest=payload.digest,
            context="release",
            audience="relying.example",
            key_sha256=self.attachments(b"-").key_sha256,
            statement_digest=self.statement.digest(),
            caller={"uid": 1000, "gid": 1000},
            claims_unverified={"job": "17"},
        )
        leaves = [bytes([number]) for number in range(others)]
        leaves.insert(index, leaf.encode())
        tree = Tree(leaves)
        fresh = Fresh(
            leaf.random, nonce, leaf.caller, leaf.claims_unverified, tree.root, tree.size, index, tree.proof(index)
        )
        blob = self.quote(binding.challenge_batch(self.scope, tree.size, tree.root))
        draft = Bundle(payload, "release", "relying.example", self.attachments(blob), fresh)
        return self.sign(draft)
