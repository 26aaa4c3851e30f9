"""A Debian guest with an encrypted root, as files: disk.img, vmlinuz, initrd.img. No device-mapper on the host."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm import tree
from tests.vm.command import run

LUKS_UUID = "7ee0a9e4-0000-4000-8000-000000000001"
FILESYSTEM_UUID = "7ee0a9e4-0000-4000-8000-000000000002"
PASSPHRASE = "vm tests: battery staple"
MAPPED = "/dev/mapper/root"
_SPARE_MEBIBYTES = 160
_HEADER_MEBIBYTES = 32
_GUEST = Path(__file__).with_name("guest")
_INSTALLED = {
    "hook": "etc/initramfs-tools/hooks/tee-agent-vm",
    "simulator": "etc/initramfs-tools/scripts/init-premount/tee-agent-vm",
    "judge.py": "usr/lib/tee-agent-vm/judge.py",
    "tee-agent-vm-judge.service": "etc/systemd/system/tee-agent-vm-judge.service",
    "wired.network": "etc/systemd/network/wired.network",
}
_ACCOUNTS = """
groupadd --system signers
useradd --groups signers alice
useradd mallory
echo root:root | chpasswd
systemctl enable systemd-networkd.service tee-agent-vm-judge.service
systemctl mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_all.timer dpkg-db-backup.timer
systemctl mask getty-static.service getty@tty1.service systemd-networkd-persistent-storage.service systemd-binfmt.service
systemctl set-default graphical.target
systemd-machine-id-setup
"""


def build(
    base: Path,
    packages: Sequence[Path],
    files: Mapping[str, bytes],
    endorsements: Path,
    folder: Path,
    *,
    purge: bool,
) -> None:
    """The image in ``folder``: base, test layer, ``files`` (path to content), our ``packages``; or those purged again."""
    root = folder / "scratch" / "root"
    tree.copy(base, root)
    _configure(root, files, endorsements)
    if packages:
        tree.install(root, packages)
    if purge:
        tree.purge(root, *(package.name.split("_")[0] for package in packages))
    tree.inside(root, "update-initramfs", "-u")
    # A machine that has been booted before: no first-boot work, which takes half a minute emulated.
    tree.inside(root, "touch", "/etc/.updated", "/var/.updated")
    for name, link in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
        shutil.copy((root / link).resolve(), folder / name)
    _encrypt(root, folder / "disk.img", folder / "scratch")
    shutil.rmtree(root)


def _configure(root: Path, files: Mapping[str, bytes], endorsements: Path) -> None:
    texts = {
        "etc/hostname": "guest\n",
        "etc/crypttab": f"root UUID={LUKS_UUID} none luks,initramfs\n",
        "etc/fstab": f"{MAPPED} / ext4 errors=remount-ro 0 1\n",
    }
    for name, content in {**{k: v.encode() for k, v in texts.items()}, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for name, place in _INSTALLED.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_GUEST / name, root / place)
    kept = root / "var/lib/tee-agent/endorsements"
    shutil.copytree(endorsements, kept)
    tree.inside(root, "sh", "-euc", _ACCOUNTS)


def _encrypt(root: Path, image: Path, scratch: Path) -> None:
    used = int(run("du", "--summarize", "--block-size=1M", root).split()[0])
    with image.open("wb") as file:
        file.truncate((used + _SPARE_MEBIBYTES + _HEADER_MEBIBYTES) << 20)
    words = ("-q", "-t", "ext4", "-U", FILESYSTEM_UUID, "-E", "no_copy_xattrs", "-d", root, "-F", image)
    run("mke2fs", *words, f"{used + _SPARE_MEBIBYTES}M")
    key = scratch / "passphrase"
    key.write_text(PASSPHRASE)
    reencrypt = ("cryptsetup", "reencrypt", "--encrypt", "--batch-mode", "--type", "luks2")
    where = ("--reduce-device-size", f"{_HEADER_MEBIBYTES}M", "--uuid", LUKS_UUID, "--key-file", key, image)
    run(*reencrypt, "--resilience", "none", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", *where)
