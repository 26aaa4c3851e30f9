"""A question as JSON (docs/api.md, POST /v1/verify) and its verdict: what `tee-agent verify --json` prints for it.

Only the vendors' roots count: nothing in a question names another one, or lifts an item of the floor. What is wrong
with the question itself is an error; what is wrong with what it is about is a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.core import attachdoc, canonical, compact, eat
from agent.core.bundle import TEXT_BYTES, Payload
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.cose import MAX_PAYLOAD
from agent.core.errors import FormatError, UsageError, VerificationError
from agent.core.keydoc import MAX_BYTES as MAX_KEY
from agent.core.model import TrustAnchor
from agent.core.policy import Policy
from agent.core.statement import STORAGES, USES
from agent.verify import kinds
from agent.verify.bundle import BundleVerdict, verify_bundle
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.report import failure_json
from agent.verify.signed import Judge, KeyVerdict
from agent.verify.ssh import verify_ssh
from agent.verify.workload import Workload

MAX_BYTES = 3 << 19
"""Longest question: 1.5 MiB."""
DEFAULTS: Mapping[str, Any] = {
    "policy": None,
    "any_workload": False,
    "key_document": None,
    "attachments": None,
    "payload": None,
    "context": None,
    "audience": None,
    "nonce": None,
    "key": None,
    "use": None,
    "storage": None,
    "at": None,
}
_MEANT = {
    kinds.BUNDLE: {"payload", "nonce", "audience", "context"},
    kinds.COMPACT: {"attachments", "payload", "nonce", "audience", "context"},
    kinds.KEY: {"use"},
    kinds.JWS: {"key_document", "payload", "audience", "context"},
    kinds.COSE: {"key_document", "payload", "audience", "context"},
    kinds.EAT: {"nonce", "audience"},
    kinds.SSH: {"key_document", "payload", "context"},
}
_PARTICULAR = ("key_document", "attachments", "payload", "nonce", "audience", "context", "use")


@dataclass(frozen=True, slots=True)
class Question:
    """One question, read. None: not given, and so not compared."""

    document: bytes
    policy: Policy | None
    any_workload: bool
    key_document: bytes | None
    attachments: bytes | None
    payload: bytes | Payload | None
    context: str | None
    audience: str | None
    nonce: bytes | None
    key: bytes | None
    use: str | None
    storage: frozenset[str] | None
    at: datetime | None

    @classmethod
    def parse(cls, data: bytes) -> Question:
        """Raises FormatError, Oversized for what is no question, UsageError for one that says no workload."""
        found = canonical.parse(data, "request", MAX_BYTES, floats=True)
        reader = canonical.Reader({**DEFAULTS, **found}, "request", frozenset({"document", *DEFAULTS}))

        def given(name: str, read: Callable[[], Any]) -> Any:
            return None if reader.item(name) is None else read()

        document, any_workload = _octets(reader.item("document"), "document", kinds.MAX_BYTES), _true_or_false(reader)
        _require_workload(any_workload, policy=reader.item("policy"))
        return cls(
            document=document,
            policy=given("policy", lambda: _policy(reader.item("policy"))),
            any_workload=any_workload,
            key_document=given("key_document", lambda: _octets(reader.item("key_document"), "key_document", MAX_KEY)),
            attachments=given("attachments", lambda: _octets(reader.item("attachments"), "attachments", MAX_KEY)),
            payload=given("payload", lambda: _payload(reader.item("payload"))),
            context=given("context", lambda: reader.text("context", TEXT_BYTES)),
            audience=given("audience", lambda: reader.text("audience", TEXT_BYTES)),
            nonce=given("nonce", lambda: reader.hexadecimal("nonce", eat.NONCE_MIN, NONCE_MAX)),
            key=given("key", lambda: reader.hexadecimal("key", 32)),
            use=given("use", lambda: _use(reader)),
            storage=given("storage", lambda: _storage(reader.item("storage"))),
            at=given("at", lambda: reader.time("at")),
        )

    def verdict(self, now: datetime, anchors: Sequence[TrustAnchor] | None = None) -> BundleVerdict | KeyVerdict:
        """Judged as of ``at``, or ``now``. ``anchors`` None means the vendors' roots only.

        Raises UsageError for what means nothing for this kind of document, FormatError, VerificationError.
        """
        kind = kinds.kind_of(self.document)
        self._require_fitting(kind)
        workload = Workload(self.policy, any_workload=self.any_workload)
        judge = Judge(self.at or now, workload, anchors, key=self.key, storage=self.storage)
        if kind == kinds.BUNDLE:
            return self._bundle(self.document, judge)
        if kind == kinds.COMPACT:
            attachments = attachdoc.decode_any(self.attachments or b"")
            return self._bundle(compact.join(compact.decode(self.document), attachments).encode(), judge)
        if kind == kinds.KEY:
            return verify_key(self.document, judge, use=self.use)
        if kind == kinds.EAT:
            return verify_eat(self.document, judge, nonce=self.nonce, audience=self.audience)
        if kind == kinds.SSH:
            return self._ssh(judge)
        if isinstance(self.payload, Payload):
            raise UsageError(f"a {kind} holds its payload: a digest says nothing", hint='"payload": {"data": "..."}')
        verify = verify_jws if kind == kinds.JWS else verify_cose
        asked: dict[str, Any] = {"payload": self.payload, "context": self.context, "audience": self.audience}
        return verify(self.document, self.key_document or b"", judge, **asked)

    def _ssh(self, judge: Judge) -> KeyVerdict:
        if self.payload is None:
            raise UsageError("an ssh signature does not hold what it signs: payload is needed")
        payload = self.payload if isinstance(self.payload, Payload) else [self.payload]
        return verify_ssh(self.document, self.key_document or b"", judge, payload=payload, context=self.context)

    def _bundle(self, document: bytes, judge: Judge) -> BundleVerdict:
        if self.nonce is not None and len(self.nonce) < NONCE_MIN:
            raise UsageError(f"the nonce of a bundle has {NONCE_MIN} bytes at the least")
        return verify_bundle(
            document, judge, payload=self.payload, nonce=self.nonce, audience=self.audience, context=self.context
        )

    def _require_fitting(self, kind: str) -> None:
        meant = _MEANT[kind]
        if "key_document" in meant and self.key_document is None:
            raise UsageError(
                f"a {kind} does not hold its signer's evidence: key_document is needed",
                hint="GET /v1/keys/NAME/attestation",
            )
        if "attachments" in meant and self.attachments is None:
            raise UsageError(
                f"a {kind} names its evidence by a digest: attachments are needed",
                hint="GET /v1/attachments/DIGEST",
            )
        for name in _PARTICULAR:
            if name not in meant and getattr(self, name) is not None:
                raise UsageError(f"{name} means nothing for this document, a {kind}")


def answer(data: bytes, now: datetime, anchors: Sequence[TrustAnchor] | None = None) -> tuple[bool, dict[str, Any]]:
    """Whether it is valid, and the verdict as JSON. Raises UsageError, FormatError for a question that is none."""
    question = Question.parse(data)
    try:
        return True, question.verdict(now, anchors).to_json()
    except (FormatError, VerificationError) as error:
        return False, failure_json(error)


def _octets(value: Any, name: str, limit: int) -> bytes:
    """``{"text": "..."}`` or ``{"data": "<base64>"}``."""
    if isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str):
        try:
            data = value["text"].encode()
        except UnicodeEncodeError as error:
            raise FormatError(f"{name}: the text is not valid", record="request") from error
        if len(data) <= limit:
            return data
    if isinstance(value, dict) and value.keys() == {"data"}:
        return canonical.Reader(value, name, frozenset({"data"})).base64("data", 0, limit)
    raise FormatError(
        f'{name} is neither {{"text": "..."}} nor {{"data": "<base64>"}} of at most {limit} bytes', record="request"
    )


def _payload(value: Any) -> bytes | Payload:
    if isinstance(value, dict) and value.keys() == {"data"}:
        return canonical.Reader(value, "payload", frozenset({"data"})).base64("data", 0, MAX_PAYLOAD)
    digest = canonical.Reader(value, "payload", frozenset({"digest"})).item("digest")
    fields = canonical.Reader(digest, "digest", frozenset({"alg", "digest", "size"}))
    if fields.item("alg") != "sha-512":
        raise FormatError("digest: alg is not sha-512", record="request")
    return Payload(fields.hexadecimal("digest", 64), fields.integer("size"))


def _policy(value: Any) -> Policy:
    """Read as the text that it came from: its reader has bounds of its own."""
    if not isinstance(value, dict):
        raise FormatError("policy is not a JSON object", record="request")
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError) as error:
        raise FormatError("policy is not valid text", record="request") from error
    return Policy.from_bytes(text)


def _use(reader: canonical.Reader) -> str:
    use = reader.text("use", 16)
    if use not in USES:
        raise UsageError(f"use is not one of {', '.join(sorted(USES))}")
    return use


def _storage(value: Any) -> frozenset[str]:
    known = isinstance(value, list) and all(isinstance(one, str) and one in STORAGES for one in value)
    if not known or not value or len(set(value)) < len(value):
        raise UsageError(f"storage is not a list of some of {', '.join(sorted(STORAGES))}, each once")
    return frozenset(value)


def _require_workload(any_workload: bool, *, policy: object) -> None:
    """Raises UsageError unless exactly one workload is said."""
    if (policy is not None) == any_workload:
        raise UsageError(
            "say in one way only which workload to accept" if any_workload else "say which workload to accept",
            hint='"policy": {...}, or "any_workload": true',
        )


def _true_or_false(reader: canonical.Reader) -> bool:
    value = reader.item("any_workload")
    if not isinstance(value, bool):
        raise FormatError("any_workload is neither true nor false", record="request")
    return value
