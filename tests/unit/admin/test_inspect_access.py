"""What `config check` says of the access policy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.admin.inspect import access
from agent.core.config import Config
from agent.core.daemonconfig import DaemonConfig
from agent.core.health import Finding
from tests.support.access import rule, text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: rules are root's files")


def found(folder: Path, signer: str = "64101") -> list[Finding]:
    daemon = DaemonConfig(signer_user=signer, allow_groups=("50",))
    return list(access(Config(str(folder / "tee-agent.toml"), daemon=daemon)))


def put(folder: Path, content: str, mode: int = 0o644) -> None:
    (folder / "policy.d").mkdir(mode=0o755, exist_ok=True)
    (folder / "policy.d" / "10.toml").write_text(content)
    (folder / "policy.d" / "10.toml").chmod(mode)


def test_no_rules(tmp_path: Path) -> None:
    (one,) = found(tmp_path, "no-such-user")
    assert one.state == "ok"
    assert "allow_users and allow_groups decide" in one.text


def test_good_rules(tmp_path: Path) -> None:
    put(tmp_path, text(rule(who={"user": ["1000", "no-such-user"]})))
    note, good = found(tmp_path)
    assert (note.state, good.state) == ("note", "ok")
    assert "no-such-user" in note.text
    assert "1 rules" in good.text


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("[[rule]]\n", 0o644, "rule[0].name: is required"),
        ("", 0o664, "others than root may change it"),
        (text(rule(who={"user": "1000"})), 0o600, "the signer's user can't read it"),
    ],
)
def test_problems(tmp_path: Path, content: str, mode: int, said: str) -> None:
    put(tmp_path, content, mode)
    (one,) = found(tmp_path)
    assert one.state == "PROBLEM"
    assert said in one.text
