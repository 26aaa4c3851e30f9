"""Attested keys of every algorithm and use over simulated evidence, and what each of them signs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from agent.core import cose, eat, jws, keydoc, sshsig
from agent.core.algorithm import ALGORITHMS, ED25519
from agent.core.bundle_parts import Attachments
from agent.core.model import Tee
from agent.core.sshwire import PublicKey
from agent.core.statement import Statement, now_in_seconds
from agent.daemon.privatekey import PrivateKey
from agent.verify.evidence import unpadded
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from sim.export import Machine
from sim.qe import QuotingEnclave
from tests.support.bundles import statement
from tests.support.simulator import anchor

PAYLOAD = b"what was to be signed\n"
NONCE = b"a relying party's own nonce"
CONTEXT, AUDIENCE = "orders", "shop.example"


@dataclass(frozen=True)
class Party:
    """A machine with one attested key."""

    machine: Machine
    private: PrivateKey
    statement: Statement

    @classmethod
    def on(cls, machine: Machine, at: datetime, use: str, algorithm: str = ED25519, **changes: Any) -> Party:
        made = statement(at, use=use, algorithm=algorithm, **changes)
        return cls(machine, PrivateKey(ALGORITHMS[algorithm]), made)

    @property
    def spki(self) -> bytes:
        return self.private.spki

    def attachments(self, blob: bytes | None = None) -> Attachments:
        tee = Tee.TDX if isinstance(self.machine, QuotingEnclave) else Tee.SNP
        made = Attachments(tee, blob or b"-", self.machine.endorsements(), self.spki, self.statement)
        if blob is None:
            data = keydoc.report_data(made).value
            made = replace(made, blob=unpadded(self.machine.report(data, 0).outblob))
        return made

    def document(self) -> bytes:
        return keydoc.build(self.attachments())

    def judge(self, at: datetime, **changes: Any) -> Judge:
        wanted = Judge(at, Workload(any_workload=True), anchors=(anchor(self.machine.root),))
        return replace(wanted, **changes)

    def jws(self, payload: bytes = PAYLOAD, **changes: Any) -> bytes:
        texts = {"context": CONTEXT, "audience": AUDIENCE} | changes
        return jws.build(self.private.sign, self.spki, payload, **texts)

    def cose(self, payload: bytes = PAYLOAD, **changes: Any) -> bytes:
        texts = {"context": CONTEXT, "audience": AUDIENCE} | changes
        return cose.build(self.private.sign, self.spki, payload, **texts)

    def ssh(self, payload: bytes = PAYLOAD, context: str = CONTEXT, name: str = sshsig.HASH) -> bytes:
        signed = sshsig.FileSignature(context, name, hashlib.new(name, payload).digest())
        return sshsig.build(PublicKey.of(self.spki), signed, self.private.sign(signed.encode()))

    def eat(self, at: datetime, form: str, attachments: Attachments | None = None, **changes: Any) -> bytes:
        begun = now_in_seconds(at)
        claims = replace(eat.Claims(NONCE, AUDIENCE, begun, begun + timedelta(minutes=5)), **changes)
        return eat.build(self.private.sign, attachments or self.attachments(), claims, form)
