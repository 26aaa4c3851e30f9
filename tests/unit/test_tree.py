"""Habits of the tree that a test can hold: size of files and functions, words that must not be there."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("agent", "snp", "tdx", "tas", "sim", "hub", "bench")
FILES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
SUFFIXES = {".py", ".md", ".sh", ".toml", ".service", ".yaml"}
TEXTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    if (Path(name).suffix in SUFFIXES or name in ("Makefile", ".ci/run")) and (ROOT / name).is_file()
)
UNWANTED = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError|pragma: no cover|type: ignore|# noqa")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [n.name for n in functions if (n.end_lineno or 0) - n.lineno >= 60] == []


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_no_unfinished_business(path: Path) -> None:
    if path == Path(__file__):
        return
    assert UNWANTED.findall(path.read_text()) == []


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = [
        relative(p.parent).replace("/", ".")
        for n in ("agent", "snp", "tdx", "tas")
        for p in (ROOT / n).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(there)


def test_modules_say_what_they_are() -> None:
    silent = [relative(p) for p in FILES if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []
