"""The disk that carries the simulator into a guest: Python, libraries and modules, and the throw-away vendor keys.

It is built out of the base tree, so it has the guest's own Python and libraries, yet shares nothing with the tested
system: neither its initramfs nor its root file system holds any of this.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import mfusepy

from tests.vm import tree
from tests.vm.command import REPOSITORY, run

MODULES = ("agent", "sim", "snp", "tdx")
PACKAGES = ("cryptography", "_cffi_backend*.so", "asn1crypto", "rfc8785")
MEBIBYTES = 128
_UNUSED = ("__pycache__", "sitecustomize.py", "test", "idlelib", "ensurepip", "pydoc_data", "unittest", "*.dist-info")
_RESOLVED = re.compile(r"(?:=> |^\s*)(/\S+) \(0x", re.MULTILINE)


def make(base: Path, state: Path, image: Path, scratch: Path) -> None:
    """Write ``image`` (ext4) with the simulator's ``state`` folder on it."""
    root = scratch / "simulator"
    shutil.rmtree(root, ignore_errors=True)
    (root / "bin").mkdir(parents=True)
    python = (base / "usr/bin/python3").resolve()
    shutil.copy(python, root / "bin/python3")
    _copy(base / "usr/lib" / python.name, root / "lib" / python.name)
    _packages(base / "usr/lib/python3/dist-packages", root / "packages")
    _libraries(base, python, root / "lib")
    shutil.copytree(state, root / "state")
    shutil.copy(REPOSITORY / "tests/vm/guest/start", root / "start")
    _compile(root)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", root, "-F", image, f"{MEBIBYTES}M")
    shutil.rmtree(root)


def _packages(source: Path, target: Path) -> None:
    target.mkdir()
    for found in (path for name in PACKAGES for path in source.glob(name)):
        _copy(found, target / found.name)
    for name in MODULES:
        _copy(REPOSITORY / name, target / name)
    shutil.copy(mfusepy.__file__, target)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_UNUSED))
    else:
        shutil.copy(source, target)


def _libraries(base: Path, python: Path, target: Path) -> None:
    """All that Python, its extensions and FUSE are linked with, the loader included, as the guest's system has them."""
    usr = base / "usr/lib"
    fuse = next(usr.rglob("libfuse3.so.*"))
    extensions = [*(usr / python.name).rglob("*.so"), *(usr / "python3/dist-packages").rglob("*.so")]
    programs = [f"/{path.relative_to(base)}" for path in (python, fuse, *extensions)]
    for name in sorted(set(_RESOLVED.findall(tree.inside(base, "ldd", *programs)))):
        shutil.copy((base / name.lstrip("/")).resolve(), target / Path(name).name)
    shutil.copy(fuse.resolve(), target / "libfuse3.so")
    next(target.glob("ld-linux*")).rename(target / "loader")


def _compile(root: Path) -> None:
    """Ahead of time, with the guest's Python on this machine: emulated it takes many seconds."""
    python = (root / "lib/loader", "--library-path", root / "lib", root / "bin/python3")
    words = ("-m", "compileall", "-q", "-x", "bad_|lib2to3", "--invalidation-mode", "unchecked-hash")
    run(*python, *words, root / "lib", root / "packages", env={"PYTHONHOME": str(root)})
