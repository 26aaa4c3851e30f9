"""Every bit of a compact bundle and of its attachments: flipped, it is refused. Every truncation as well.

By bit position, so that parallel workers share the load; the bundles are fresh ones, so that every member is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core import attachdoc, compact
from agent.core.errors import FormatError, VerificationError
from agent.core.model import TrustAnchor
from agent.verify.bundle import verify_bundle
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support.bundles import NONCE, PAYLOAD, Signer
from tests.support.simulator import anchor, machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@dataclass(frozen=True)
class Halves:
    """A good compact bundle, its attachments, and the root they need."""

    short: bytes
    attached: bytes
    root: TrustAnchor

    def refusal(self, short: bytes, attached: bytes) -> str:
        """The error's code, "" where both pass together."""
        try:
            data = compact.join(compact.decode(short), attachdoc.decode(attached)).encode()
            judge = Judge(AT, Workload(any_workload=True), (self.root,))
            verify_bundle(data, judge, payload=PAYLOAD, nonce=NONCE)
        except (FormatError, VerificationError) as error:
            return error.code
        return ""


@pytest.fixture(scope="module", params=["snp", "tdx"])
def halves(request: pytest.FixtureRequest, pki_state: Path) -> Halves:
    made = machine(request.param, pki_state)
    bundle = Signer.on(made, AT).fresh_bundle()
    return Halves(compact.encode(bundle), attachdoc.build(bundle.attachments), anchor(made.root))


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_is_refused(halves: Halves, bit: int) -> None:
    assert halves.refusal(halves.short, halves.attached) == ""
    accepted = []
    for name, data in (("compact", halves.short), ("attachments", halves.attached)):
        buffer = bytearray(data)
        for position in range(len(data)):
            buffer[position] ^= 1 << bit
            changed = bytes(buffer)
            pair = (changed, halves.attached) if name == "compact" else (halves.short, changed)
            if not halves.refusal(*pair):
                accepted.append((name, position))
            buffer[position] ^= 1 << bit
    assert accepted == []


def test_every_truncation_is_refused(halves: Halves) -> None:
    codes = {halves.refusal(halves.short[:size], halves.attached) for size in range(len(halves.short))}
    codes |= {halves.refusal(halves.short, halves.attached[:size]) for size in range(len(halves.attached))}
    assert codes == {"format.json"}


def test_what_follows_or_precedes_is_refused(halves: Halves) -> None:
    for more in (b"\n", b" ", b"\0", b"{}", b"\xef\xbb\xbf"):
        assert halves.refusal(halves.short + more, halves.attached)
        assert halves.refusal(more + halves.short, halves.attached)
        assert halves.refusal(halves.short, halves.attached + more)
        assert halves.refusal(halves.short, more + halves.attached)


def test_attachments_of_the_same_key_under_other_evidence_are_refused(pki_state: Path) -> None:
    """Everything is genuine, and the signature is over other evidence."""
    hardware = machine("snp", pki_state)
    signer = Signer.on(hardware, AT)
    one, two = signer.bundle(), signer.fresh_bundle()
    halves = Halves(compact.encode(two), attachdoc.build(two.attachments), anchor(hardware.root))
    assert halves.refusal(halves.short, halves.attached) == ""
    assert halves.refusal(halves.short, attachdoc.build(one.attachments)) == "verify.binding.attachments"
    assert halves.refusal(compact.encode(one), halves.attached) == "verify.binding.attachments"
