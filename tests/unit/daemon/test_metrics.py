"""The text format is well-formed whatever it holds; tallies are bounded; the strict reader is strict."""

from __future__ import annotations

import pytest

from agent.core.access import Wish
from agent.core.errors import FirmwareError, ServerError, TeeAgentError, UsageError
from agent.core.model import Evidence, Nonce, Tee
from agent.core.ports import Deadline as AnyDeadline
from agent.daemon.metrics import MAX_CODES, OTHER, Metered, Tally, exposition
from agent.deadline import Deadline
from tests.support.prometheus import parse

NASTY = 'a "quote", a \\ and\na line'


def test_what_a_label_or_help_holds_is_escaped() -> None:
    text = exposition(iter([("x_total", "counter", NASTY, [("", ({"label": NASTY, "other": ""}, 2.0))])])).decode()
    (family,) = parse(text).values()
    assert family.samples == {("x_total", (("label", NASTY), ("other", ""))): 2.0}
    assert text.count("\n") == 3


@pytest.mark.parametrize("value", [0.0, 1.0, 1795445971.0, 0.019005843001650646, 2.0**60, 1e-9, 1795359571.28])
def test_numbers_are_whole(value: float) -> None:
    (family,) = parse(exposition(iter([("x", "gauge", "Help.", [("", ({}, value))])])).decode()).values()
    assert list(family.samples.values()) == [value]


@pytest.mark.parametrize(
    "text",
    [
        "x 1\n",
        "# HELP x_total Help.\nx_total 1\n",
        "# HELP x_total Help.\n# TYPE x_total counter\nx_total 1",
        "# HELP x Help.\n# TYPE x counter\nx 1\n",
        "# HELP x_total Help.\n# TYPE x_total gauge\nx_total 1\n",
        "# TYPE x_total counter\n# HELP x_total Help.\nx_total 1\n",
        "# HELP x_total Help.\n# TYPE x_total counter\nx_total 1\nx_total 2\n",
        "# HELP x_total Help.\n# TYPE x_total counter\ny_total 1\n",
        "# HELP x_total Help.\n# TYPE x_total counter\nx_total -1\n",
        "# HELP x_total Help.\n# TYPE x_total counter\nx_total one\n",
        '# HELP x_total Help.\n# TYPE x_total counter\nx_total{a="1" b="2"} 1\n',
        '# HELP x_total Help.\n# TYPE x_total counter\nx_total{a="1",a="2"} 1\n',
        '# HELP x_total Help.\n# TYPE x_total counter\nx_total{a="a "quote""} 1\n',
        '# HELP x_total Help.\n# TYPE x_total counter\nx_total{a="1",} 1\n',
        "# HELP x_total Help.\n# TYPE x_total counter\nx_total 1\n# HELP x_total Help.\n# TYPE x_total counter\n",
        "# HELP x_milliseconds Help.\n# TYPE x_milliseconds gauge\nx_milliseconds 1\n",
    ],
)
def test_the_reader_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_codes_of_refusals_are_bounded() -> None:
    tally = Tally()
    for index in range(2 * MAX_CODES):
        tally.on_refused(ServerError("x", code=f"server.n{index}"))
    tally.on_refused(ServerError("x", code="server.n0"))
    assert len(tally.refused) == MAX_CODES + 1
    assert tally.refused[OTHER] == MAX_CODES
    assert tally.refused["server.n0"] == 2


def test_a_tally_counts() -> None:
    tally = Tally()
    tally.on_answered("sign")
    tally.on_denied(Wish("verify"))
    tally.on_signed("jws", 1000)
    tally.on_refused(UsageError("x"))
    assert (tally.answered["sign"], tally.denied["verify"], tally.signed["jws"], tally.refused["usage"]) == (
        1,
        1,
        1000,
        1,
    )


class Hardware:
    """Gives evidence, or fails."""

    def __init__(self, error: TeeAgentError | None = None) -> None:
        self.error = error
        self.asked: list[str] = []

    def _give(self, what: str) -> Evidence:
        self.asked.append(what)
        if self.error:
            raise self.error
        return Evidence(Tee.SNP, b"blob", b"", "sev_guest")

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: AnyDeadline) -> Evidence:
        return self._give("tas")

    def collect(self, nonce: bytes, *, deadline: AnyDeadline) -> Evidence:
        return self._give("collect")

    def signing_key(
        self, algorithm: str, use: str, spki: bytes, statement_digest: bytes, *, deadline: AnyDeadline
    ) -> Evidence:
        return self._give(f"{algorithm} {use}")

    def challenge_batch(self, tree_size: int, root: bytes, *, deadline: AnyDeadline) -> Evidence:
        return self._give(f"{tree_size}")


def test_quotes_are_counted_and_passed_on() -> None:
    tally, hardware = Tally(), Hardware()
    metered, deadline = Metered(hardware, tally), Deadline(5.0, "test")
    assert metered.signing_key("Ed25519", "raw", b"", b"", deadline=deadline).blob == b"blob"
    assert metered.challenge_batch(3, b"", deadline=deadline).blob == b"blob"
    metered.collect(b"", deadline=deadline)
    metered.tas(Nonce("00" * 32), b"", deadline=deadline)
    assert hardware.asked == ["Ed25519 raw", "3", "collect", "tas"]
    assert tally.quotes == {"signing-key": 1, "challenge-batch": 1}
    assert min(tally.quote_seconds.values()) > 0
    assert not tally.quote_failures


def test_quotes_in_vain_are_counted_and_say_why() -> None:
    tally = Tally()
    with pytest.raises(FirmwareError):
        Metered(Hardware(FirmwareError("x")), tally).challenge_batch(1, b"", deadline=Deadline(5.0, "test"))
    assert (tally.quotes, tally.quote_failures) == ({}, {"challenge-batch": 1})
