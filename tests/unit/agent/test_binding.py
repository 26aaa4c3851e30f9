"""REPORT_DATA: the published vectors recomputed from their own description, then from our code; and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agent.core import binding
from agent.core.binding import Scope
from agent.core.errors import FormatError
from agent.core.model import Nonce, ReportData

_DOCUMENT = json.loads((Path(__file__).resolve().parents[3] / "docs/vectors/binding.json").read_text())
TAS: list[dict[str, Any]] = _DOCUMENT["tas"]
OWN: list[dict[str, Any]] = _DOCUMENT["own"]


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


def as_bytes(kind: str, value: Any) -> bytes:
    if kind == "text":
        return str(value).encode("utf-8")
    return int(value).to_bytes(8, "big") if kind == "u64-be" else bytes.fromhex(value)


@named(TAS)
def test_tas_vectors_hold_by_their_description(case: dict[str, Any]) -> None:
    data = case["nonce"].encode("ascii") + bytes.fromhex(case["wrapping_key"] + "".join(case["components"]))
    assert data.hex() == case["input"]
    assert hashlib.sha512(data).hexdigest() == case["report_data"]


@named(OWN)
def test_own_vectors_hold_by_their_description(case: dict[str, Any]) -> None:
    data = b"tee-agent/v1\0" + case["purpose"].encode("ascii") + b"\0"
    for field in case["fields"]:
        value = as_bytes(field["kind"], field["value"])
        data += len(value).to_bytes(4, "big") + value
    assert data.hex() == case["input"]
    assert hashlib.sha512(data).hexdigest() == case["report_data"]


@named(TAS)
def test_our_code_makes_the_tas_vectors(case: dict[str, Any]) -> None:
    components = tuple(bytes.fromhex(one) for one in case["components"])
    made = binding.tas(Nonce(case["nonce"]), bytes.fromhex(case["wrapping_key"]), components)
    assert made.value.hex() == case["report_data"]


@named(OWN)
def test_our_code_makes_our_vectors(case: dict[str, Any]) -> None:
    values = {field["name"]: field for field in case["fields"]}
    scope = Scope(values.pop("audience")["value"], values.pop("boot_id")["value"])
    given = {
        name: bytes.fromhex(field["value"]) if field["kind"] == "hex" else field["value"]
        for name, field in values.items()
    }
    made = getattr(binding, case["purpose"].replace("-", "_"))(scope, **given)
    assert made.value.hex() == case["report_data"]


def test_every_purpose_has_a_vector() -> None:
    purposes = {
        name.replace("_", "-")
        for name, value in vars(binding).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "ReportData" and name[0] != "_"
    }
    assert purposes == {"tas"} | {case["purpose"] for case in OWN}


def test_the_families_never_meet() -> None:
    assert all(chr(bytes.fromhex(case["input"])[0]) in "0123456789abcdef" for case in TAS)
    assert all(bytes.fromhex(case["input"])[:1] == b"t" for case in OWN)


def test_all_vectors_differ() -> None:
    assert len({case["report_data"] for case in TAS + OWN}) == len(TAS + OWN)


SCOPE = Scope("a", "b")


def test_fields_cannot_flow_into_each_other() -> None:
    assert binding.compat(SCOPE, "ab", b"c") != binding.compat(SCOPE, "a", b"bc")
    assert binding.compat(Scope("ab", "c"), "d", b"") != binding.compat(Scope("a", "bc"), "d", b"")
    assert binding.tls_key(SCOPE, b"", b"x") != binding.tls_key(SCOPE, b"x", b"")


@pytest.mark.parametrize(
    "text", ["", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "\n", '"' + "0" * 62 + '"', "٣" * 64]
)
def test_only_exact_nonces_exist(text: str) -> None:
    with pytest.raises(FormatError):
        Nonce(text)


def test_evidence_over_a_bare_nonce_is_never_made() -> None:
    with pytest.raises(FormatError, match="bare nonce"):
        binding.tas(Nonce("0" * 64), b"")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_components_are_digests(size: int) -> None:
    with pytest.raises(FormatError):
        binding.tas(Nonce("0" * 64), b"key", (bytes(size),))


@pytest.mark.parametrize("size", [0, 15, 65])
def test_collect_takes_nonces_of_16_to_64_bytes(size: int) -> None:
    with pytest.raises(FormatError, match="16 to 64"):
        binding.collect(SCOPE, bytes(size))


def test_fields_are_bounded() -> None:
    binding.compat(SCOPE, "d", bytes(binding.MAX_FIELD))
    with pytest.raises(FormatError, match="allowed"):
        binding.compat(SCOPE, "d", bytes(binding.MAX_FIELD + 1))


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes(size: int) -> None:
    with pytest.raises(FormatError):
        ReportData(bytes(size))
