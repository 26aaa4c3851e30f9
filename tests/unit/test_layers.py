"""The import rules of the tree (DESIGN.md, structure), read from the code itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STDLIB = set(sys.stdlib_module_names)
OURS = {"agent", "snp", "tdx", "tas", "sim", "hub", "bench", "tests"}
IO_MODULES = {
    "socket",
    "subprocess",
    "requests",
    "urllib.request",
    "http",
    "ssl",
    "asyncio",
    "time",
    "random",
    "secrets",
}
TYPES_ONLY = {"_typeshed"}
"""Stands behind ``if TYPE_CHECKING`` and exists for type checkers only."""

RULES: dict[str, set[str]] = {
    # package (path prefix) -> top-level names it may import beside the standard library
    "agent/core/": {"agent.core", "rfc8785"},
    "snp/": {"snp", "agent.core", "cryptography", "asn1crypto"},
    "tdx/": {"tdx", "agent.core", "cryptography", "asn1crypto"},
    "agent/": {"agent", "cryptography", "rfc8785", "httptools", "sdnotify", "asn1crypto", "requests"},
    "tas/": {"tas", "agent", "snp", "tdx", "cryptography", "rfc8785", "aiohttp", "sdnotify"},
    "sim/": {"sim", "agent", "snp", "tdx", "cryptography", "asn1crypto", "mfusepy"},
}
NAMES_VENDORS = (
    "agent/probe.py",
    "agent/verify/",
    "agent/device/",
    "agent/collateral/",
    "agent/admin/predict.py",
    "agent/commands/eventlog.py",
    "agent/rtmr.py",
)
"""The only places of agent/ that may name snp or tdx."""


def sources() -> list[Path]:
    return sorted(path for prefix in RULES for path in (ROOT / prefix).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rule_for(relative: str) -> set[str]:
    prefix = next(prefix for prefix in RULES if relative.startswith(prefix))
    allowed = set(RULES[prefix])
    if relative.startswith(NAMES_VENDORS):
        allowed |= {"snp", "tdx"}
    return allowed


def within(name: str, allowed: set[str]) -> bool:
    return name.split(".", maxsplit=1)[0] in STDLIB | TYPES_ONLY or within_any(name, allowed)


def within_any(name: str, items: set[str]) -> bool:
    return any(name == item or name.startswith(item + ".") for item in items)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_to_their_layer(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    allowed = rule_for(relative)
    assert [name for name in imports(path) if not within(name, allowed)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "agent" / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_does_no_io(path: Path) -> None:
    assert [name for name in imports(path) if within_any(name, IO_MODULES)] == []
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "input", "print"}


def test_one_door_to_subprocesses() -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if "subprocess" in {n.split(".")[0] for n in imports(path)}
    ]
    assert [user for user in users if user.startswith(("agent/", "tas/", "snp/", "tdx/"))] == ["agent/run.py"]


def test_the_rule_catches_a_planted_import(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("import requests\nfrom snp import abi\n")
    assert [n for n in imports(planted) if not within(n, RULES["agent/core/"])] == ["requests", "snp.abi"]


def test_data_folders_are_not_packages() -> None:
    # With an __init__.py, packaging/ would hide PyPI's packaging, and systemd/ the journal's module.
    assert [str(p) for name in ("systemd", "packaging", "initramfs") for p in (ROOT / name).rglob("__init__.py")] == []
