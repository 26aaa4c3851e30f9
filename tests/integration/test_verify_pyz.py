"""The verifier in one file: built twice the same, run far from the tree, without what only Linux has."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "packaging/pyz/build.py"
POSIX = ("fcntl", "grp", "pwd", "resource", "termios", "pty", "syslog", "_posixsubprocess")
"""Modules that Python does not have on every system."""
VECTORS = ("bundle-snp.json", "bundle-tdx-fresh.json")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    target = tmp_path_factory.mktemp("pyz") / "tee-agent-verify.pyz"
    subprocess.run([sys.executable, BUILD, target], check=True, capture_output=True, timeout=60)
    yield target
    shutil.rmtree(target.parent)


def run(archive: Path, folder: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """As another machine would: only the archive and the interpreter's own packages, from another folder."""
    code = f"import runpy, sys\n{before}\nsys.argv = {[str(archive), *words]!r}\nrunpy.run_path({str(archive)!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def material(name: str, folder: Path) -> tuple[dict[str, str], list[str]]:
    """A published vector as the files that its verifier has: the vector, and the words of the command."""
    vector = json.loads((ROOT / "docs/vectors" / name).read_text())
    (folder / "it.bundle").write_text(vector["bundle"])
    (folder / "root.pem").write_text(vector["root_pem"])
    return vector, ["it.bundle", "--any-workload", "--trust-root", "root.pem", "--at", vector["verify_at"]]


HIDE = f"""
import importlib.abc
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {POSIX!r} or name.split('.')[0] in ('aiohttp', 'requests', 'asn1crypto', 'sdnotify'):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
        return None
sys.meta_path.insert(0, Hidden())
for name in {POSIX!r}:
    sys.modules.pop(name, None)
try:
    import fcntl
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("what should be missing is there")
"""


@pytest.mark.parametrize("name", VECTORS)
def test_it_verifies_the_published_bundles_without_posix(archive: Path, tmp_path: Path, name: str) -> None:
    _, words = material(name, tmp_path)
    done = run(archive, tmp_path, *words, "--json", before=HIDE)
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["key"]["algorithm"] == "Ed25519"


@pytest.mark.parametrize("name", VECTORS)
def test_it_refuses_a_changed_bundle(archive: Path, tmp_path: Path, name: str) -> None:
    vector, words = material(name, tmp_path)
    changed = json.loads(vector["bundle"])
    signature = bytearray(base64.b64decode(changed["signature"]))
    signature[0] ^= 1
    changed["signature"] = base64.b64encode(signature).decode()
    (tmp_path / "it.bundle").write_text(json.dumps(changed, sort_keys=True, separators=(",", ":")))
    done = run(archive, tmp_path, *words)
    assert done.returncode == 65
    assert "[verify.signature" in done.stderr


def test_without_a_workload_it_says_what_to_give(archive: Path, tmp_path: Path) -> None:
    _, words = material("bundle-snp.json", tmp_path)
    words.remove("--any-workload")
    done = run(archive, tmp_path, *words)
    assert done.returncode == 64
    assert "--any-workload" in done.stderr


def test_without_cryptography_it_says_what_is_missing(archive: Path, tmp_path: Path) -> None:
    done = run(archive, tmp_path, "it.bundle", before="sys.modules['cryptography'] = None")
    assert done.returncode == 69
    assert "pip install cryptography" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_the_trees(archive: Path, tmp_path: Path) -> None:
    wanted = subprocess.run(
        [sys.executable, "-m", "agent.cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run(archive, tmp_path, "--version").stdout == wanted.stdout


def test_the_same_tree_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.pyz"
    subprocess.run([sys.executable, BUILD, again], check=True, capture_output=True, timeout=60, cwd=tmp_path)
    assert again.read_bytes() == archive.read_bytes()


def test_it_runs_by_its_name(archive: Path, tmp_path: Path) -> None:
    # The first line names the system's python3, which need not have cryptography: both ends are clear.
    done = subprocess.run([archive, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 69)
    assert "Traceback" not in done.stderr


def test_it_has_no_more_than_it_needs(archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    folders = {name.rsplit("/", 1)[0] for name in names if "/" in name}
    assert folders == {"agent", "agent/commands", "agent/core", "agent/verify", "snp", "tdx", "rfc8785"}
    assert "rfc8785/LICENSE" in names
    assert [name for name in names if name.startswith("agent/commands/")] == [
        "agent/commands/__init__.py",
        "agent/commands/verify.py",
    ]
