"""docs/evidence.md against the code: every field, its form and size; every purpose of REPORT_DATA."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from snp import abi as snp_abi
from tdx import abi as tdx_abi

_REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = (_REPOSITORY / "docs" / "evidence.md").read_text()
Rows = dict[str, tuple[str, str]]


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> Rows:
    """Form and remark by field."""
    return {
        name: (form, remark)
        for name, form, remark in re.findall(r"^\| `(\w+)` \| ([^|]*?) \|(?: (.*?))? \|$", section(title), re.MULTILINE)
    }


def snp(version: int) -> dict[str, Any]:
    return snp_abi.VERSIONS[version].build(version=version).fields()


def tdx(version: int) -> dict[str, Any]:
    header = tdx_abi.Header.build(version=version)
    body = (tdx_abi.Body15 if version == 5 else tdx_abi.Body).build()
    quote = tdx_abi.build_quote(
        tdx_abi.signed_part(header, body),
        signature=bytes(64),
        attestation_key=bytes(64),
        qe_report=tdx_abi.QeReport.build(),
        qe_signature=bytes(64),
        auth_data=bytes(32),
        certificates=b"x",
    )
    fields = tdx_abi.parse(quote).fields()
    assert fields["header"]["version"] == version
    return fields


def has_form(value: Any, form: str) -> bool:
    kind, _, size = form.removesuffix(" or null").partition(", ")
    match kind:
        case "number":
            return isinstance(value, int) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "word":
            return bool(re.fullmatch(r"0x[0-9a-f]{8}([0-9a-f]{8})?", value))
        case "hex":
            return len(bytes.fromhex(value)) == int(size.removesuffix(" bytes"))
        case "text":
            return bool(re.fullmatch(r"\d+\.\d+\.\d+", value))
        case "TCB":
            return "raw" in value
        case "object":
            return isinstance(value, dict)
    return False


def agree(fields: dict[str, Any], table: Rows, *, complete: bool) -> None:
    assert set(fields) <= set(table)
    assert not complete or set(fields) == set(table)
    json.dumps(fields)
    for name, value in fields.items():
        form, remark = table[name]
        if value is None:
            assert form.endswith(" or null"), name
        else:
            assert has_form(value, form), (name, value)
        if isinstance(value, dict) and form.startswith("object"):
            assert set(re.findall(r"`(\w+)`", remark)) == set(value), name


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_snp(version: int) -> None:
    agree(snp(version), rows("Fields of an SNP report"), complete=version == 5)


@pytest.mark.parametrize("version", [4, 5])
def test_tdx(version: int) -> None:
    agree(tdx(version), rows("Fields of a TDX quote"), complete=version == 5)


def test_purposes() -> None:
    vectors = json.loads((_REPOSITORY / "docs" / "vectors" / "binding.json").read_text())
    named = {
        name: [part.split(" (")[0] for part in text.split(", ") if not part.startswith("big endian")]
        for name, text in re.findall(r"^\| `([a-z-]+)` \| (.*?) \|$", section("REPORT_DATA"), re.MULTILINE)
    }
    assert set(named) == {case["purpose"] for case in vectors["own"]}
    for case in vectors["own"]:
        assert len(named[case["purpose"]]) == len(case["fields"]), case["purpose"]
