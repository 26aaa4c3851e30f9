"""What the package's removal takes away: persistent keys only on purge, and in their folder only what is named as ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "packaging" / "debian" / "tee-agent.postrm"
KEY = f"uid-1000@orders@{'a' * 32}.key"


def installed(root: Path) -> Path:
    """A machine's folders under ``root``; that of the keys."""
    for folder in (
        "etc/tee-agent/policy.d",
        "var/lib/tee-agent/endorsements",
        "var/lib/tee-agent/keys",
        "var/log/tee-agent",
    ):
        (root / folder).mkdir(parents=True)
    keys = root / "var/lib/tee-agent/keys"
    for name in (KEY, f"{KEY}.new", "index", "index.copy", "index.new", "lock"):
        (keys / name).write_bytes(b"sealed")
    (root / "etc/tee-agent/tee-agent.toml").touch()
    return keys


def postrm(root: Path, *words: str) -> None:
    text = SCRIPT.read_text()
    for folder in ("etc", "var"):
        text = text.replace(f" /{folder}/", f" {root}/{folder}/")
    assert text.count(str(root)) > 10
    subprocess.run(["sh", "-eu", "-c", text, "postrm", *words], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("word", ["remove", "upgrade", "abort-install", "failed-upgrade"])
def test_without_purge_nothing_goes(tmp_path: Path, word: str) -> None:
    keys = installed(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    postrm(tmp_path, word, "1.0")
    assert sorted(tmp_path.rglob("*")) == before
    assert (keys / KEY).read_bytes() == b"sealed"


def test_purge_takes_keys_and_folders(tmp_path: Path) -> None:
    installed(tmp_path)
    postrm(tmp_path, "purge")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "etc",
        "var",
        "var/lib",
        "var/log",
    ]


def test_purge_leaves_what_is_not_ours(tmp_path: Path) -> None:
    keys = installed(tmp_path)
    (keys / "backup.tar").touch()
    (keys / "sub").mkdir()
    (keys / "sub" / KEY).touch()
    postrm(tmp_path, "purge")
    assert sorted(path.relative_to(keys).as_posix() for path in keys.rglob("*")) == ["backup.tar", "sub", f"sub/{KEY}"]


def test_purge_follows_no_link(tmp_path: Path) -> None:
    keys = installed(tmp_path)
    elsewhere = keys.rename(tmp_path / "elsewhere")
    keys.symlink_to(elsewhere)
    postrm(tmp_path, "purge")
    assert (elsewhere / KEY).exists()
