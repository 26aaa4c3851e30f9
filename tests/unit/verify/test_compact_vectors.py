"""The published compact bundles and batch: joined they are the published bundles, and verify as those do."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from agent.core import attachdoc, canonical, compact
from agent.core.bundle import Payload
from agent.core.errors import UsageError
from agent.verify import question
from agent.verify.bundle import BundleVerdict, verify_bundle
from agent.verify.evidence import anchor_from_pem
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support import compact_vectors as vectors
from tests.support.bundle_vectors import FOLDER, NAMES

VECTOR: dict[str, Any] = json.loads((FOLDER / "compact.json").read_text())


def published(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / name).read_text())
    return loaded


def verify(data: bytes, like: dict[str, Any], payload: bytes, **asked: Any) -> BundleVerdict:
    """At the published time, under the published root."""
    root = anchor_from_pem(like["root_pem"].encode(), "root")
    at = datetime.fromisoformat(like["verify_at"])
    return verify_bundle(data, Judge(at, Workload(any_workload=True), (root,)), payload=payload, **asked)


def test_it_is_what_the_code_makes() -> None:
    assert vectors.document() == VECTOR
    assert [case["bundle"] for case in VECTOR["cases"]] == [f"{name}.json" for name in NAMES]


@pytest.mark.parametrize("case", VECTOR["cases"], ids=[case["bundle"] for case in VECTOR["cases"]])
def test_joined_it_is_the_published_bundle(case: dict[str, Any]) -> None:
    like = published(case["bundle"])
    short, attached = compact.decode(case["compact"].encode()), attachdoc.decode(case["attachments"].encode())
    made = compact.join(short, attached)
    assert made.encode() == like["bundle"].encode()
    assert vectors.steps(made) == case["steps"]
    assert case["steps"].items() & like["steps"].items() >= {("signing_input", made.signing_input().hex())}
    verify(made.encode(), like, like["payload"].encode())


@pytest.mark.parametrize("case", VECTOR["cases"], ids=[case["bundle"] for case in VECTOR["cases"]])
def test_a_question_takes_both_halves(case: dict[str, Any]) -> None:
    """As POST /v1/verify asks it."""
    like = published(case["bundle"])
    root = anchor_from_pem(like["root_pem"].encode(), "root")
    asked = {"document": {"text": case["compact"]}, "attachments": {"text": case["attachments"]}, "any_workload": True}

    def ask(**changes: Any) -> tuple[bool, dict[str, Any]]:
        data = canonical.encode({name: value for name, value in {**asked, **changes}.items() if value is not None})
        return question.answer(data, datetime.fromisoformat(like["verify_at"]), (root,))

    valid, verdict = ask()
    assert valid
    assert verdict["payload"]["digest"] == Payload.of(like["payload"].encode()).digest.hex()
    other = next(one for one in VECTOR["cases"] if one is not case)
    valid, verdict = ask(attachments={"text": other["attachments"]})
    assert (valid, verdict["error"]["code"]) == (False, "verify.binding.attachments")
    for changes in ({"attachments": None}, {"document": {"text": like["bundle"]}}, {"use": "bundle"}):
        with pytest.raises(UsageError):
            ask(**changes)


def test_each_signature_of_the_batch_verifies() -> None:
    batch = VECTOR["batch"]
    like, case = published(batch["bundle"]), VECTOR["cases"][0]
    attached = attachdoc.decode(case["attachments"].encode())
    assert (case["bundle"], batch["answer"]["attachments"]) == (batch["bundle"], attached.digest.hex())
    for payload, one in zip(vectors.PAYLOADS, batch["answer"]["signatures"], strict=True):
        made = compact.join(compact.decode(canonical.encode(one)), attached)
        verify(made.encode(), like, payload, context=batch["context"], audience=batch["audience"])
