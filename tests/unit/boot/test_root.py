"""Where root lies, by a /sys made of folders: our volume, LVM on it, partitions, btrfs; and everything else refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.boot.root import Mount, judge, mounts
from agent.core.errors import VerificationError

OURS = {"253:0": "root"}


class Sys:
    """A /sys with block devices."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "dev/block").mkdir(parents=True)
        (path / "class/block").mkdir(parents=True)

    def device(self, name: str, devno: str, *slaves: str, partition_of: str = "") -> None:
        folder = self.path / "devices" / partition_of / name
        (folder / "slaves").mkdir(parents=True)
        (folder / "dev").write_text(devno + "\n")
        if partition_of:
            (folder / "partition").write_text("1\n")
        for slave in slaves:
            (folder / "slaves" / slave).symlink_to(self.path / "class/block" / slave)
        (self.path / "dev/block" / devno).symlink_to(folder)
        (self.path / "class/block" / name).symlink_to(folder)

    def btrfs(self, uuid: str, *members: str) -> None:
        for member in members:
            place = self.path / "fs/btrfs" / uuid / "devices" / member
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self.path / "class/block" / member)


@pytest.fixture
def sys(tmp_path: Path) -> Sys:
    tree = Sys(tmp_path / "sys")
    tree.device("vda", "254:0")
    tree.device("vdb", "254:16")
    tree.device("vdb1", "254:17", partition_of="vdb")
    tree.device("dm-0", "253:0", "vda")
    return tree


def root_on(devno: str, kind: str = "ext4", source: str = "/dev/x") -> list[Mount]:
    return [Mount(devno, "/root", kind, source)]


def test_root_on_our_mapping(sys: Sys) -> None:
    assert judge(root_on("253:0"), OURS, sys.path) == {"root"}


def test_root_on_lvm_on_our_mapping(sys: Sys) -> None:
    sys.device("dm-1", "253:1", "dm-0")
    sys.device("dm-2", "253:2", "dm-1")
    assert judge(root_on("253:2"), OURS, sys.path) == {"root"}


def test_a_partition_on_our_mapping(sys: Sys) -> None:
    sys.device("dm-0p1", "253:9", partition_of="dm-0")
    (sys.path / "devices/dm-0/dev").write_text("253:0\n")
    assert judge(root_on("253:9"), OURS, sys.path) == {"root"}


@pytest.mark.parametrize("devno", ["254:0", "254:16", "254:17"])
def test_plain_disks_and_partitions_are_refused_by_name(sys: Sys, devno: str) -> None:
    with pytest.raises(VerificationError, match=r"lies on device vd[ab]") as caught:
        judge(root_on(devno), OURS, sys.path)
    assert caught.value.code == "verify.root"


def test_a_volume_that_is_only_half_on_ours_is_refused(sys: Sys) -> None:
    sys.device("dm-1", "253:1", "dm-0", "vdb1")
    with pytest.raises(VerificationError, match="vdb"):
        judge(root_on("253:1"), OURS, sys.path)


def test_somebody_else_s_mapping_of_the_right_kind_is_refused(sys: Sys) -> None:
    sys.device("dm-3", "253:3", "vdb")
    with pytest.raises(VerificationError, match="vdb"):
        judge(root_on("253:3"), OURS, sys.path)


def test_nothing_opened_in_this_boot(sys: Sys) -> None:
    with pytest.raises(VerificationError):
        judge(root_on("253:0"), {}, sys.path)


def test_devices_in_a_circle_end(sys: Sys) -> None:
    sys.device("dm-4", "253:4", "dm-5")
    sys.device("dm-5", "253:5", "dm-4")
    with pytest.raises(VerificationError):
        judge(root_on("253:4"), OURS, sys.path)


def test_btrfs_with_all_its_devices(sys: Sys) -> None:
    sys.btrfs("u1", "dm-0")
    assert judge(root_on("0:40", "btrfs", "/dev/dm-0"), OURS, sys.path) == {"root"}


def test_btrfs_with_a_device_that_is_not_ours(sys: Sys) -> None:
    sys.btrfs("u1", "dm-0", "vdb")
    with pytest.raises(VerificationError, match="vdb"):
        judge(root_on("0:40", "btrfs", "/dev/dm-0"), OURS, sys.path)


@pytest.mark.parametrize("kind", ["nfs4", "tmpfs", "overlay", "fuse", "9p", "btrfs"])
def test_root_without_a_block_device(sys: Sys, kind: str) -> None:
    with pytest.raises(VerificationError, match="on no block device"):
        judge(root_on("0:40", kind, "host:/export"), OURS, sys.path)


def test_what_is_mounted_below_counts_too(sys: Sys) -> None:
    below = [*root_on("253:0"), Mount("254:16", "/root/usr", "ext4", "/dev/vdb")]
    with pytest.raises(VerificationError, match="/root/usr lies on device vdb"):
        judge(below, OURS, sys.path)
    nfs = [*root_on("253:0"), Mount("0:50", "/root/usr", "nfs", "host:/usr")]
    with pytest.raises(VerificationError, match="/root/usr is a nfs"):
        judge(nfs, OURS, sys.path)
    dev = [*root_on("253:0"), Mount("0:6", "/root/dev", "devtmpfs", "udev")]
    assert judge(dev, OURS, sys.path) == {"root"}


def test_something_mounted_over_root(sys: Sys) -> None:
    with pytest.raises(VerificationError):
        judge([*root_on("253:0"), *root_on("254:16")], OURS, sys.path)


def test_nothing_mounted(sys: Sys) -> None:
    with pytest.raises(VerificationError, match="nothing is mounted"):
        judge([], OURS, sys.path)


def test_mountinfo_as_the_kernel_writes_it() -> None:
    text = (
        "1 1 0:2 / / rw - rootfs rootfs rw\n"
        "30 1 253:0 / /root ro,relatime - ext4 /dev/mapper/root ro\n"
        "31 30 253:0 /sub /root/with\\040space rw master:1 shared:2 - ext4 /dev/mapper/root rw\n"
        "32 1 0:22 / /rooted rw - tmpfs tmpfs rw\n"
    )
    assert mounts(text) == [
        Mount("253:0", "/root", "ext4", "/dev/mapper/root"),
        Mount("253:0", "/root/with\\040space", "ext4", "/dev/mapper/root"),
    ]
