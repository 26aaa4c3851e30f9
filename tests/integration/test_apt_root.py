"""Packages unpacked beside the system: what happens where the package index can't be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import sshd
from tests.vm import aptroot
from tests.vm.command import HarnessError, run

NOWHERE = "http://127.0.0.1:1/debian"


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    if not aptroot.KEYRING.exists():
        pytest.skip(f"no Debian with apt: {aptroot.KEYRING} is missing")
    monkeypatch.setattr(aptroot, "mirror", lambda: NOWHERE)


def test_an_index_that_can_t_be_reached_is_told_from_other_failures(tmp_path: Path) -> None:
    with pytest.raises(aptroot.UnreachableError, match=NOWHERE):
        aptroot.unpack(tmp_path / "root", ("bookworm",), ("hello",))


def test_a_package_that_is_none_is_a_failure_and_no_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aptroot, "run", lambda *words: "" if "update" in words else run(*words))
    with pytest.raises(HarnessError) as caught:
        aptroot.unpack(tmp_path / "root", ("bookworm",), ("hello",))
    assert not isinstance(caught.value, aptroot.UnreachableError)


def test_without_an_index_there_is_no_sshd_and_nothing_is_left_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshd, "BUILD", tmp_path)
    with pytest.raises(pytest.skip.Exception, match=NOWHERE):
        sshd.unpacked()
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith("-unfinished")]
