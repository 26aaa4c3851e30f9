"""Every bit of one SNP and one TDX bundle: flipped, it is refused. Every truncation as well.

By bit position, so that parallel workers share the load; the bundles are fresh ones, so that every member is there.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import FormatError, VerificationError
from agent.core.model import TrustAnchor
from agent.verify.bundle import verify_bundle
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support.bundles import NONCE, PAYLOAD, Signer
from tests.support.simulator import anchor, machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=["snp", "tdx"])
def genuine(request: pytest.FixtureRequest, pki_state: Path) -> tuple[bytes, TrustAnchor]:
    """A good bundle and the root it needs."""
    made = machine(request.param, pki_state)
    return Signer.on(made, AT).fresh_bundle().encode(), anchor(made.root)


def refusal(data: bytes, root: TrustAnchor) -> str:
    """The error's code, "" for a bundle that passes."""
    try:
        verify_bundle(data, Judge(AT, Workload(any_workload=True), (root,)), payload=PAYLOAD, nonce=NONCE)
    except (FormatError, VerificationError) as error:
        return error.code
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_is_refused(genuine: tuple[bytes, TrustAnchor], bit: int) -> None:
    data, root = genuine
    assert refusal(data, root) == ""
    buffer, codes, accepted = bytearray(data), Counter[str](), []
    for position in range(len(data)):
        buffer[position] ^= 1 << bit
        code = refusal(bytes(buffer), root)
        buffer[position] ^= 1 << bit
        codes[code.split(".")[0]] += 1
        if not code:
            accepted.append(position)
    assert accepted == []
    assert codes.total() == len(data)


def test_every_truncation_is_refused(genuine: tuple[bytes, TrustAnchor]) -> None:
    data, root = genuine
    codes = {refusal(data[:size], root) for size in range(len(data))}
    assert codes == {"format.json"}


def test_what_follows_is_refused(genuine: tuple[bytes, TrustAnchor]) -> None:
    data, root = genuine
    for more in (b"\n", b" ", b"\0", b"{}"):
        assert refusal(data + more, root).startswith("format")
        assert refusal(more + data, root).startswith("format")
