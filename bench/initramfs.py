"""What the agent adds to an initramfs, against what clevis adds to the same one, and where our bytes go.

Three copies of one Debian 13, each with an encrypted root in crypttab, zstd and MODULES=most as Debian sets them: as it
is, with our packages and a configuration, with clevis-initramfs.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from bench import debian
from bench.figure import Figure
from tests.vm import image, tree, world
from tests.vm.command import VM

_FILES = {
    "etc/crypttab": f"root UUID={image.LUKS_UUID} none luks,initramfs\n",
    "etc/fstab": f"{image.MAPPED} / ext4 errors=remount-ro 0 1\n",
}
_OURS = {
    "etc/tee-agent/tee-agent.toml": world.configuration("https://10.0.2.2:8443", f"spki:sha256:{'5a' * 32}"),
    "etc/tee-agent/tas-api-key": "0123456789abcdef0123456789abcdef\n",
}
_GROUPS = (
    ("Python", r"usr/bin/python"),
    ("cryptography's .so", r".*/(_rust|_cffi_backend)\b.*\.so"),
    ("other extension modules", r".*/(lib-dynload|dist-packages)/.*\.so"),
    ("libraries", r"usr/lib/[^/]*/[^/]*\.so"),
    ("kernel modules", r"usr/lib/modules/"),
    ("standard library", r"usr/lib/python3\.\d+/"),
    ("other Python modules", r"usr/lib/python3/"),
    ("the agent", r".*tee-agent"),
)
"""Kinds of files, by the first pattern that fits."""
_UNPACK = "rm -rf /var/tmp/i && unmkinitramfs /initrd.img /var/tmp/i"
_PACKED = "cd /var/tmp/i && cpio --quiet --create --format newc <../names | zstd -q -9 | wc --bytes"
"""Compressed as mkinitramfs does it."""


def growth() -> list[Figure]:
    """growth of the initramfs, against clevis

    In megabytes of 10^6 bytes. Raises HarnessError.
    """
    packages = debian.our_packages()
    base = tree.base()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=VM) as folder:
        plain, ours = Path(folder, "plain"), Path(folder, "ours")
        without = _built(base, plain, _FILES)
        clevis = _built(debian.with_clevis(), Path(folder, "clevis"), _FILES) - without
        tree.copy(base, ours)
        _write(ours, {**_FILES, **_OURS})
        tree.install(ours, packages)
        mine = _made(ours) - without
        groups = _where(_contents(plain), _contents(ours), ours)
    parts = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in groups)
    detail = f"{mine / 1e6:.2f} MB against {clevis / 1e6:.2f} MB, on {without / 1e6:.2f} MB; each packed alone: {parts}"
    return [Figure("growth of the initramfs", mine / clevis, "x", 1.0, False, "clevis + clevis-initramfs", detail)]


def _built(source: Path, root: Path, files: dict[str, str]) -> int:
    tree.copy(source, root)
    _write(root, files)
    return _made(root)


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def _made(root: Path) -> int:
    """Make the initramfs; its size in bytes."""
    tree.inside(root, "update-initramfs", "-u")
    return (root / "initrd.img").resolve().stat().st_size


def _contents(root: Path) -> dict[str, int]:
    """Path in the image to size, of its files."""
    tree.inside(root, "sh", "-euc", _UNPACK)
    top = root / "var/tmp/i"
    return {str(path.relative_to(top)): path.stat().st_size for path in top.rglob("*") if _plain(path)}


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _where(before: dict[str, int], after: dict[str, int], root: Path) -> list[tuple[str, int]]:
    """Bytes of the new or changed files, packed kind by kind: largest first."""
    kinds: dict[str, list[str]] = {}
    for name, size in after.items():
        if before.get(name) != size:
            kinds.setdefault(_kind(name), []).append(name)
    sizes = {kind: _packed(root, names) for kind, names in kinds.items()}
    return sorted(sizes.items(), key=lambda item: -item[1])


def _kind(name: str) -> str:
    inner = re.sub(r"^(main|early\d*)/", "", name)
    return next((kind for kind, pattern in _GROUPS if re.match(pattern, inner)), "others")


def _packed(root: Path, names: list[str]) -> int:
    (root / "var/tmp/names").write_text("".join(f"{name}\n" for name in names))
    return int(tree.inside(root, "sh", "-euc", _PACKED))
