"""The kept corpus, run through every parser again: no atheris needed. New inputs come from ``python -m tests.fuzz``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.errors import FormatError
from tests.fuzz import contract, corpus
from tests.fuzz.contract import Broken, Target, hold
from tests.fuzz.samples import join, split
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
MOST_FILES, MOST_BYTES = 720, 1_500_000


# Some inputs are certificates with the serial number 0, at which the cryptography package warns.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_stay_within_the_contract(name: str) -> None:
    paths = [path for target, path in corpus.kept() if target == name]
    assert paths, "no input is kept: python -m tests.fuzz TARGET, then --keep TARGET"
    for path in paths:
        hold(TARGETS[name], path.read_bytes())


def test_the_corpus_is_small_and_has_no_strangers() -> None:
    found = list(corpus.kept())
    assert {name for name, _ in found} <= TARGETS.keys()
    assert len(found) <= MOST_FILES
    assert sum(path.stat().st_size for _, path in found) <= MOST_BYTES


def _raising(error: Exception) -> Target:
    def call(_: bytes) -> None:
        raise error

    return Target(call, lambda _: [])


def test_the_contract_can_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(_raising(FormatError("what was wrong")), b"")
    with pytest.raises(ValueError, match="foreign"):
        hold(_raising(ValueError("foreign")), b"")
    for message in ("", "\x1b[2J", "\u202egnp.exe", "x" * 3000):
        with pytest.raises(Broken):
            hold(_raising(FormatError(message)), b"")
    # How high the mark already is depends on what this process did before, so it is moved by hand.
    marks = iter([0, contract.GROWTH, 0, contract.GROWTH + 1])
    monkeypatch.setattr(contract, "peak", lambda: next(marks))
    quiet = Target(lambda _: None, lambda _: [])
    hold(quiet, b"")
    with pytest.raises(Broken, match="64 MiB"):
        hold(quiet, b"")


def test_the_mark_rises() -> None:
    # The kernel hands the mark on from parent to child, so the child goes above whatever it was born with.
    script = (
        "from tests.fuzz.contract import peak; low = peak(); _ = b'1' * (low + (9 << 20)); print(peak() - low >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 9


def test_a_cover_is_greedy_and_small() -> None:
    arcs = [("f", 0, line) for line in range(6)]
    reached = {
        b"long": frozenset(arcs[:3]),
        b"s": frozenset(arcs[:3]),
        b"t": frozenset(arcs[3:]),
        b"u": frozenset(arcs[1:4]),
    }
    assert corpus.cover(reached) == [b"s", b"t"]
    assert corpus.cover({b"a": frozenset(), b"": frozenset()}) == []


def test_inputs_of_several_parts() -> None:
    assert split(join(b"a", b"", b"bc")) == [b"a", b"", b"bc"]
    assert split(b"\xff\xff\xff\xffabc") == [b"abc"]


def test_arcs_are_of_our_packages_only(tmp_path: Path) -> None:
    found = corpus.arcs("core.crypttab", b"root UUID=1 none luks\n")
    assert {Path(file).name for file, _, _ in found} == {"crypttab.py"}
    assert found != corpus.arcs("core.crypttab", b"# nothing\n")
