"""docs/openapi.yaml, agent/daemon/openapi.json and ROUTES say the same; every object is closed, every text bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent import __version__
from agent.core.access import OPERATIONS
from agent.core.errors import ConfigError
from agent.daemon import openapi
from agent.daemon.api import ROUTES
from agent.daemon.problem import STATUS
from tests.support.openapi import TARGET, document, objects, operations, rendered

DOCUMENT = document()
OPEN = (
    "/components/schemas/Claim",
    "/components/schemas/Policy/properties",
    "/components/schemas/Question/oneOf",
    "/components/schemas/Verdict",
    "/paths//v1/openapi.json/get/",
)
"""What others define: a caller's claims, policies, the members of a verdict by its kind, OpenAPI itself."""


def test_the_file_that_is_served_is_the_source() -> None:
    assert TARGET.read_text() == rendered(), "python -m tests.support.openapi writes it anew"
    assert json.loads(openapi.load()) == DOCUMENT
    assert DOCUMENT["info"]["version"] == __version__


def test_a_missing_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi, "DOCUMENT", TARGET.with_name("absent.json"))
    with pytest.raises(ConfigError, match=r"absent\.json: No such file"):
        openapi.load()


def test_every_route_is_described_and_every_description_is_a_route() -> None:
    described = {(path, method): found["x-operation"] for path, method, found in operations(DOCUMENT)}
    assert described == {(path, method): name for path, methods in ROUTES.items() for method, name in methods.items()}
    assert set(described.values()) <= set(OPERATIONS)


def test_where_batches_are_refused_is_said() -> None:
    said = {found["operationId"]: found.get("description", "") for _, _, found in operations(DOCUMENT)}
    assert [name for name, text in said.items() if "usage.batch" in text] == ["sign", "signWithKey"]
    without = "all but EAT and ssh a batch of them, but not with fresh (else usage.batch)"
    assert without in said["signWithKey"]


def test_operations_have_names_of_their_own() -> None:
    names = [found["operationId"] for _, _, found in operations(DOCUMENT)]
    assert len(set(names)) == len(names)


def test_every_object_is_closed_and_every_text_bounded() -> None:
    open_objects, unbounded = [], []
    for where, found in objects(DOCUMENT):
        if found.get("type") == "object" and found.get("additionalProperties") is not False:
            open_objects.append(where)
        texts = found.get("type") == "string" or (isinstance(found.get("type"), list) and "string" in found["type"])
        if texts and not ({"maxLength", "enum", "const"} & found.keys() or bounded(found.get("pattern", ""))):
            unbounded.append(where)
    assert [where for where in open_objects if not where.startswith(OPEN)] == []
    assert [where for where in unbounded if "/headers/" not in where] == []


def bounded(pattern: str) -> bool:
    return (
        pattern.startswith("^") and pattern.endswith("$") and not {"*", "+"} & set(pattern.replace("A-Za-z0-9+/", ""))
    )


def test_required_members_exist() -> None:
    for where, found in objects(DOCUMENT):
        if "properties" in found and "required" in found:
            assert set(found["required"]) <= found["properties"].keys(), where


def test_references_lead_somewhere() -> None:
    used = set()
    for where, found in objects(DOCUMENT):
        if "$ref" in found:
            target: Any = DOCUMENT
            for name in found["$ref"].removeprefix("#/").split("/"):
                assert name in target, f"{where}: {found['$ref']}"
                target = target[name]
            used.add(found["$ref"])
    there = {f"#/components/{kind}/{name}" for kind, group in DOCUMENT["components"].items() for name in group}
    assert there - used == set()


def test_every_refusal_is_a_problem_document_with_the_codes_of_its_status() -> None:
    problems = DOCUMENT["components"]["responses"]
    for path, method, found in operations(DOCUMENT):
        refused = {status: answer for status, answer in found["responses"].items() if int(status) >= 400}
        assert {"400", "403", "500"} <= refused.keys(), f"{method} {path}"
        for status, answer in refused.items():
            if "$ref" not in answer:
                continue
            (schema,) = problems[answer["$ref"].rpartition("/")[2]]["content"].values()
            said = DOCUMENT["components"]["schemas"][schema["schema"]["$ref"].rpartition("/")[2]]
            assert said["properties"]["status"] == {"const": int(status)}, f"{method} {path} {status}"
            assert int(status) in {*STATUS.values(), 500}
