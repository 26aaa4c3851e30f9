"""Attested keys whose statements have a head of the audit log."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from agent.core import keydoc
from agent.core.bundle_parts import Attachments
from agent.core.model import Endorsements, Tee
from agent.core.statement import AuditHead
from agent.daemon.keys import Attested
from tests.support.bundles import statement

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPKI = bytes.fromhex("302a300506032b6570032100") + bytes(range(32))


def key(seq: int) -> Attested:
    made = replace(statement(AT), audit=AuditHead(seq, f"{seq:02x}" * 32))
    return Attested(Attachments(Tee.SNP, b"report", Endorsements((b"c",), (), b"", b""), SPKI, made), AT, "sim")


def seq_of(document: bytes) -> int:
    head = keydoc.decode(document).statement.audit
    assert head
    return head.seq
