"""Every bit of one sample of each signature format: flipped, it is refused. Every truncation, every addition as well.

By bit position, so that parallel workers share the load. In a key document nothing signs the endorsements, which are
only material to verify by: a certificate that is not needed may be anything. All else there is as it was, or refused;
of the endorsements each byte has one of its bits turned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core import keydoc
from agent.core.errors import FormatError, VerificationError
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.signed import KeyVerdict
from tests.support.formats import Party
from tests.support.simulator import machine

AT = datetime.now(UTC)
FORMATS = ("key-snp", "key-tdx", "jws", "cose", "cose-detached", "eat-json", "eat-cbor")


@dataclass(frozen=True)
class Sample:
    """One signature, and how it is verified."""

    data: bytes
    verify: Callable[[bytes], KeyVerdict]
    loose: range = range(0)
    """Where the endorsements of a key document are: another one there may pass, for the same key and evidence."""

    def passes(self, data: bytes) -> bool:
        try:
            self.verify(data)
        except (FormatError, VerificationError):
            return False
        return True

    def accepts(self, position: int, changed: bytes) -> bool:
        if position not in self.loose:
            return self.passes(changed)
        try:
            found = self.verify(changed).attachments
        except (FormatError, VerificationError):
            return False
        genuine = keydoc.decode(self.data)
        return replace(found, endorsements=genuine.endorsements) != genuine


@pytest.fixture(scope="module", params=FORMATS)
def sample(request: pytest.FixtureRequest, pki_state: Path) -> Sample:
    name, _, variant = request.param.partition("-")
    hardware = machine("tdx" if variant == "tdx" else "snp", pki_state)
    party = Party.on(hardware, AT, "raw" if name == "key" else name, "ECDSA-P256" if name == "jws" else "Ed25519")
    judge, document = party.judge(AT), party.document()
    if name == "key":
        loose = range(document.index(b'"endorsements"'), document.index(b',"evidence"'))
        return Sample(document, lambda data: verify_key(data, judge), loose)
    if name == "jws":
        return Sample(party.jws(), lambda data: verify_jws(data, document, judge))
    if name == "cose":
        detached = variant == "detached"
        made = party.cose(b"payload", detached=detached)
        return Sample(made, lambda data: verify_cose(data, document, judge, payload=b"payload" if detached else None))
    return Sample(party.eat(AT, variant), lambda data: verify_eat(data, judge))


@pytest.mark.slow
@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_is_refused(sample: Sample, bit: int) -> None:
    assert sample.passes(sample.data)
    buffer, accepted = bytearray(sample.data), []
    for position in range(len(buffer)):
        if position in sample.loose and position % 8 != bit:
            continue
        buffer[position] ^= 1 << bit
        if sample.accepts(position, bytes(buffer)):
            accepted.append(position)
        buffer[position] ^= 1 << bit
    assert accepted == []


def test_every_truncation_is_refused(sample: Sample) -> None:
    assert [size for size in range(len(sample.data)) if sample.passes(sample.data[:size])] == []


def test_what_follows_or_precedes_is_refused(sample: Sample) -> None:
    for more in (b"\n", b" ", b"\0", b"=", b".", b"{}", b"\xd2"):
        assert not sample.passes(sample.data + more)
        assert not sample.passes(more + sample.data)
