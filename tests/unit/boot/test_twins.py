"""Two devices of one identity, found by a /sys and /dev made of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.boot import twins
from agent.core.errors import Conflict, DiskError
from agent.deadline import Deadline
from agent.disk.binary import build
from agent.run import Completed
from tests.support import luks


class Machine:
    """Block devices as files."""

    def __init__(self, path: Path) -> None:
        self.block, self.dev = path / "block", path / "dev"
        self.block.mkdir()
        self.dev.mkdir()

    def disk(self, name: str, content: bytes, *, holders: tuple[str, ...] = ()) -> None:
        for holder in holders:
            (self.block / name / "holders" / holder).mkdir(parents=True)
        (self.block / name / "holders").mkdir(parents=True, exist_ok=True)
        (self.dev / name).write_bytes(content)

    def check(self, uuid: str = luks.UUID) -> None:
        twins.one_luks(uuid, self.block, self.dev)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.disk("vda", volume())
    made.disk("vdb", bytes(8 << 20))
    return made


def volume() -> bytes:
    return luks.header_bytes(*luks.sample())


def test_one_is_fine(machine: Machine) -> None:
    machine.check()


def test_two_are_refused_by_name(machine: Machine) -> None:
    machine.disk("vdc", volume())
    with pytest.raises(Conflict, match=f"{machine.dev}/vda and {machine.dev}/vdc both have the LUKS UUID") as caught:
        machine.check()
    assert caught.value.code == "conflict.twin"


def test_a_twin_that_has_only_the_second_copy(machine: Machine) -> None:
    fixed, _ = luks.sample()
    machine.disk("vdc", bytes(fixed.size) + build(fixed, b"{}", "secondary"))
    with pytest.raises(Conflict):
        machine.check()


def test_a_twin_with_a_broken_header_counts(machine: Machine) -> None:
    broken = bytearray(volume())
    broken[5000] ^= 1
    machine.disk("vdc", bytes(broken))
    with pytest.raises(Conflict):
        machine.check()


def test_halves_of_a_mirror_are_not_twins(machine: Machine) -> None:
    machine.disk("vda", volume(), holders=("md0",))
    machine.disk("vdc", volume(), holders=("md0",))
    machine.disk("md0", volume())
    machine.check()


def test_devices_without_medium_don_t_matter(machine: Machine) -> None:
    (machine.block / "sr0").mkdir()
    machine.check()


def blkid(found: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], **_: object) -> Completed:
        asked.append(argv)
        return Completed(argv, 0 if found else 2, found.encode(), b"")

    monkeypatch.setattr(twins, "run", run)
    return asked


def deadline() -> Deadline:
    return Deadline(10, "test")


@pytest.mark.parametrize(
    ("root", "tag"),
    [("UUID=abc", "UUID=abc"), ("LABEL=r", "LABEL=r"), ("/dev/disk/by-uuid/abc", "UUID=abc"),
     ("/dev/disk/by-label/r", "LABEL=r")],
)  # fmt: skip
def test_root_by_its_tag_is_looked_for(root: str, tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = blkid("/dev/vdb\n", monkeypatch)
    with pytest.raises(Conflict, match="/dev/vdb has that identity before it is opened"):
        twins.none_yet(root, deadline())
    assert asked[0][-1] == tag
    twins.one_root(root, deadline())


def test_two_roots_after_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    blkid("/dev/vdb\n/dev/mapper/root\n", monkeypatch)
    with pytest.raises(Conflict, match="/dev/vdb and /dev/mapper/root both have UUID=abc"):
        twins.one_root("UUID=abc", deadline())


@pytest.mark.parametrize("root", ["", "/dev/mapper/root", "/dev/vg/root"])
def test_root_by_path_has_no_twins(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = blkid("/dev/vdb\n", monkeypatch)
    twins.none_yet(root, deadline())
    twins.one_root(root, deadline())
    assert not asked


def test_a_device_that_does_not_come(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught:
        twins.wait_for(str(tmp_path / "never"), Deadline(0.05, "test"))
    assert caught.value.code == "disk.missing"
    (tmp_path / "there").touch()
    assert twins.wait_for(str(tmp_path / "there"), deadline()) == tmp_path / "there"
