"""The linters are tests: a missing tool skips on a laptop and fails in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed, and CI must not skip it")
        pytest.skip(f"{name} is not installed")
    return found


def run(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def shell_scripts() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    candidates = [ROOT / name for name in listed if (ROOT / name).is_file()]
    return [
        str(p)
        for p in candidates
        if p.suffix == ".sh" or p.read_bytes()[:64].startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))
    ]


def test_ruff_check() -> None:
    run(tool("ruff"), "check", ".")


def test_ruff_format() -> None:
    run(tool("ruff"), "format", "--check", ".")


def test_mypy_strict() -> None:
    run(tool("mypy"), "--cache-dir", "build/mypy", ".")


def test_shellcheck() -> None:
    scripts = shell_scripts()
    assert scripts
    run(tool("shellcheck"), *scripts)
