"""What every signature format of an attested key is judged by: use, time, what was asked for, and the evidence.

The formats differ in form and signature, which they check first (agent.verify.bundle, jws, cose, eat, keydoc); from
there on this is one way for all of them (docs/bundle.md, 3 to 5 and 7). Nothing is fetched.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent.core.bundle_parts import Attachments
from agent.core.errors import BindingMismatch, FormatError, SignatureInvalid, VerificationError
from agent.core.model import Check, Endorsements, ReportData, TrustAnchor, Verified
from agent.core.policy import Floor, Policy, renumbered
from agent.verify.evidence import NO_POLICY, detect, verify_evidence
from agent.verify.report import checks_json, verified_json
from agent.verify.shelf import Shelf
from agent.verify.signature import verifies
from agent.verify.workload import Workload

SKEW = timedelta(minutes=5)
"""How far the guest's clock may be off the verifier's."""


@dataclass(frozen=True, slots=True)
class Judge:
    """By what a key is judged: as of when, for which workload, under whose roots, kept where.

    ``anchors`` None means the vendors' roots only, ``floor`` None the full floor; ``key`` is the SHA-256 (32 bytes) of
    the SubjectPublicKeyInfo that it must be, if any; ``storage`` has the places where its private half may be kept (as
    statements call them), None any; ``collateral`` is the verifier's own and goes before the key's.
    """

    at: datetime
    workload: Workload
    anchors: Sequence[TrustAnchor] | None = None
    floor: Floor | None = None
    key: bytes | None = None
    skew: timedelta = SKEW
    collateral: Endorsements | Shelf | None = None
    storage: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """A key, and what it signed, that passed everything asked for.

    ``kind`` names the format; ``said`` has what is particular to it, for JSON; ``payload`` is what was signed, b"" for
    formats without one. ``checks`` are numbered in the order made, ``not_checked`` says the rest.
    """

    kind: str
    attachments: Attachments
    verified: Verified
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]
    said: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""

    def to_json(self) -> dict[str, Any]:
        """For people's programs; docs/formats.md has the members."""
        key = self.attachments
        return {
            "valid": True,
            "kind": self.kind,
            **self.said,
            "key": {"algorithm": key.algorithm.name, "sha256": key.key_sha256.hex()},
            "statement": key.statement.to_json(),
            "evidence": verified_json(self.verified),
            "checks": checks_json(self.checks),
            "not_checked": list(self.not_checked),
        }


class Trial:
    """The checks made so far, and what was left out; a failing check ends it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.checks: list[Check] = []
        self.left_out: list[str] = []
        self.add("form: canonical and complete", True, "", VerificationError)

    def add(self, name: str, ok: bool, problem: str, error: type[VerificationError], hint: str = "") -> None:
        """One check. Raises ``error`` with all checks so far unless ``ok``."""
        self.checks.append(Check(len(self.checks) + 1, name, ok, "" if ok else problem))
        if not ok:
            raise error(problem, checks=self.checks, hint=hint)

    def signature(self, key: Attachments, algorithm: object, signature: bytes, data: bytes) -> None:
        """The key's signature over ``data``; ``algorithm`` is what the format says, which is never followed."""
        expected = (key.algorithm.jose, key.algorithm.cose)
        self.add(
            "algorithm of the key",
            algorithm in expected,
            f"the {self.kind} says {algorithm!a}, the key is {key.algorithm.name}",
            SignatureInvalid,
        )
        self.signed(key, signature, data)

    def signed(self, key: Attachments, signature: bytes, data: bytes) -> None:
        """The same for a format that names no algorithm beside the key's own."""
        ok = verifies(key.algorithm, key.spki, signature, data)
        self.add("signature of the key", ok, f"the {self.kind}'s signature does not verify", SignatureInvalid)

    def names_key(self, found: str | bytes, key: str | bytes) -> None:
        """``kid`` is the thumbprint of the key at hand."""
        hint = "the key document must be that of the signing key"
        self.add("kid", found == key, f"the {self.kind} names another key", BindingMismatch, hint)

    def use(self, key: Attachments, use: str | None) -> None:
        """The statement fits key and format; ``use`` None takes any."""
        statement, algorithm = key.statement, key.algorithm.name
        fits = statement.algorithm == algorithm and use in (None, statement.use)
        problem = f"the statement says {statement.algorithm} for {statement.use}, not {algorithm} for {use or 'any'}"
        self.add("use of the key", fits, problem, VerificationError)

    def wanted(self, key: Attachments, judge: Judge) -> None:
        """It is the key that it must be, and its private half is kept where it may be."""
        if judge.key is None:  # as ``asked`` has it, but without a digest that nobody looks at
            self.left_out.append("key: not compared")
        else:
            self.asked("key", judge.key, key.key_sha256, f"the key is sha256:{key.key_sha256.hex()}")
        if judge.storage is None:
            self.left_out.append("storage: not compared")
            return
        found, wanted = key.statement.storage, " or ".join(sorted(judge.storage))
        self.add("storage", found in judge.storage, f"the key's storage is {found}, not {wanted}", BindingMismatch)

    def in_force(self, key: Attachments, judge: Judge) -> None:
        """The statement's time."""
        try:
            key.statement.check_time(judge.at, judge.skew)
        except VerificationError as error:
            self.add("statement in force", False, error.message, type(error), error.hint)
        self.add("statement in force", True, "", VerificationError)

    def asked(self, name: str, wanted: bytes | None, found: bytes, problem: str) -> None:
        """What the verifier wants to be so; None is not compared, and said to be."""
        if wanted is None:
            self.left_out.append(f"{name}: not compared")
        else:
            self.add(name, hmac.compare_digest(wanted, found), problem, BindingMismatch)

    def asked_text(self, name: str, wanted: str | None, found: str) -> None:
        """The same for text."""
        self.asked(name, None if wanted is None else wanted.encode(), found.encode(), f"the {name} is {found!a}")

    def evidence(self, key: Attachments, report_data: ReportData, judge: Judge) -> Verified:
        """Vendor's checks, REPORT_DATA, floor, workload. Raises FormatError, VerificationError, UsageError."""
        try:
            verified = verify_evidence(
                key.blob,
                _endorsements(key, judge),
                at=judge.at,
                anchors=judge.anchors,
                report_data=report_data,
                policy=required(key, judge),
                floor=judge.floor,
            )
        except VerificationError as error:
            error.checks = (*self.checks, *renumbered(error.checks, len(self.checks) + 1))
            raise
        if verified.fields.get("trailing_bytes"):
            raise FormatError("the quote is padded", record=self.kind)
        self.checks += renumbered(verified.checks, len(self.checks) + 1)
        return verified

    def key(self, key: Attachments, report_data: ReportData, judge: Judge) -> Verified:
        """The whole of a key from its time on; what was left out is noted."""
        self.in_force(key, judge)
        self.wanted(key, judge)
        verified = self.evidence(key, report_data, judge)
        self.concede(key, verified, judge)
        return verified

    def concede(self, key: Attachments, verified: Verified, judge: Judge, *, fresh: bool = False) -> None:
        """What nobody looked at; ``fresh``: the evidence answers a nonce."""
        if judge.workload.any_workload:
            self.left_out.append("workload: any was accepted")
        if key.statement.time_source == "guest":
            self.left_out.append("times in the statement: the guest's own claim")
        if not fresh:
            self.left_out.append("freshness: the key's evidence may be as old as its statement")
        self.left_out += [what for what in verified.not_checked if what != NO_POLICY]

    def not_checked(self) -> tuple[str, ...]:
        """Everything that was left out, once each."""
        return tuple(dict.fromkeys(self.left_out))

    def verdict(
        self, key: Attachments, verified: Verified, said: Mapping[str, Any] | None = None, payload: bytes = b""
    ) -> KeyVerdict:
        """What all of it comes to."""
        return KeyVerdict(self.kind, key, verified, tuple(self.checks), self.not_checked(), said or {}, payload)


def required(key: Attachments, judge: Judge) -> Policy | None:
    """The policy for this kind of evidence, which is what the key says it is. Raises FormatError, UsageError."""
    if detect(key.blob) is not key.tee:
        raise FormatError(f"the evidence is not of {key.tee}", record="key document")
    return judge.workload.required(key.tee)


def _endorsements(key: Attachments, judge: Judge) -> Endorsements:
    own = judge.collateral.select(key.blob) if isinstance(judge.collateral, Shelf) else judge.collateral
    return (own or Endorsements()).merged(key.endorsements)
