"""Builds tee-agent-verify.pyz: the verifier as one file that Python runs. The same tree gives the same bytes.

python packaging/pyz/build.py FILE
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("agent/core", "agent/verify", "snp", "tdx")
FILES = ("agent/__init__.py", "agent/cli.py", "agent/commands/__init__.py", "agent/commands/verify.py")
MADE = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the oldest that the format has."""


def members() -> Iterator[tuple[str, bytes]]:
    """Names in the archive and their bytes: ours, and rfc8785 with its licence, which is Python alone."""
    yield "__main__.py", (Path(__file__).parent / "__main__.py").read_bytes()
    paths = [ROOT / name for name in FILES] + [path for name in FOLDERS for path in (ROOT / name).glob("*.py")]
    for path in sorted(paths):
        yield path.relative_to(ROOT).as_posix(), path.read_bytes()
    spec = find_spec("rfc8785")
    if spec is None or spec.origin is None:
        raise SystemExit("build.py: rfc8785 is not installed")
    package = Path(spec.origin).parent
    for path in sorted(package.glob("*.py")):
        yield f"rfc8785/{path.name}", path.read_bytes()
    licence = next(package.parent.glob("rfc8785-*.dist-info/**/LICENSE"), None)
    if licence is not None:
        yield "rfc8785/LICENSE", licence.read_bytes()


def build(target: Path) -> None:
    """Write the archive, whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members():
                entry = zipfile.ZipInfo(name, MADE)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    partial.chmod(0o755)
    partial.replace(target)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
    sys.stdout.write(f"{sys.argv[1]}\n")
