"""`tee-agent policy explain`: the decision, the rules passed over, and whose identity may be asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from tests.support.access import rule, text
from tests.support.daemon import ROOT, STRANGER, open_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: rules are root's files")

RULES = text(
    rule(
        "shop",
        who={"unit": "web.service", "user": "1000"},
        operations=["sign", "keys.create"],
        keys=["shop/*"],
        namespace="shop",
    ),
    rule("no-root-key", "deny", who={"group": ["50", "60"]}, keys="shop/root"),
    rule("staff", who={"group": "50"}, operations=["status", "sign"]),
    rule("till", who={"user": "1002"}, operations="keys.create", persistent=False),
)
Explain = Callable[..., tuple[int, str]]


@pytest.fixture
def explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Explain]:
    """Exit status and standard output."""
    (tmp_path / "tee-agent.toml").write_text("")
    (tmp_path / "policy.d").mkdir(mode=0o755)
    (tmp_path / "policy.d" / "10.toml").write_text(RULES)

    def run(*words: str) -> tuple[int, str]:
        status = cli.main(["policy", "explain", "--config", str(tmp_path / "tee-agent.toml"), *words])
        return status, capsys.readouterr().out

    yield run


def document(explain: Explain, *words: str) -> dict[str, Any]:
    status, out = explain("--json", *words)
    found: dict[str, Any] = json.loads(out)
    assert status == (0 if found["allowed"] else 77)
    return found


def test_the_rule_that_decides(explain: Explain) -> None:
    words = ("--unit", "web.service", "--user", "1000", "sign", "--key", "receipts", "--use", "jws")
    found = document(explain, *words)
    assert (found["allowed"], found["rule"], found["namespace"]) == (True, "shop", "shop")
    assert found["file"].endswith("policy.d/10.toml")
    assert found["request"]["key"] == "shop/receipts"
    assert (found["caller"]["uid"], found["caller"]["unit"]) == (1000, "web.service")
    assert found["passed_over"] == []
    status, out = explain(*words)
    assert status == 0
    assert out.startswith("allowed: rule shop in ")
    assert "key shop/receipts, use 'jws'" in out
    assert explain("--quiet", *words) == (0, "")


def test_the_rules_that_do_not_and_why(explain: Explain) -> None:
    found = document(explain, "--user", "1001", "--group", "60", "sign", "--key", "shop/x")
    assert (found["allowed"], found["rule"], found["file"]) == (False, "default", "")
    assert [(one["rule"], one["selector"], one["values"]) for one in found["passed_over"]] == [
        ("shop", "who.user", ["1000"]),
        ("no-root-key", "keys", ["shop/root"]),
        ("staff", "who.group", ["50"]),
        ("till", "operations", ["keys.create"]),
    ]
    status, out = explain("--quiet", "--user", "1001", "--group", "60", "sign", "--key", "shop/x")
    assert status == 77
    assert "passed over: rule shop in " in out
    assert ": who.user: 1000\n" in out


def test_a_deny_rule(explain: Explain) -> None:
    found = document(explain, "--user", "1001", "--group", "50", "sign", "--key", "shop/root")
    assert (found["allowed"], found["rule"]) == (False, "no-root-key")


def test_root_and_the_default(explain: Explain) -> None:
    found = document(explain, "--user", "0", "keys.destroy", "--key", "shop/root")
    assert (found["allowed"], found["rule"]) == (True, "default")
    assert "root" in found["reason"]


def test_a_unit_without_a_user(explain: Explain) -> None:
    found = document(explain, "--unit", "web.service", "sign", "--key", "x")
    assert (found["allowed"], found["namespace"], found["caller"]["uid"]) == (False, None, None)
    assert any("without --user" in note for note in found["notes"])
    assert "uid-" not in explain("--unit", "web.service", "sign", "--key", "x")[1]


def test_secrets(explain: Explain, tmp_path: Path) -> None:
    more = text(rule("all", operations="*"), rule("api", operations="secret", secrets="api*"))
    (tmp_path / "policy.d" / "20.toml").write_text(more.replace("alice", "1001"))
    assert document(explain, "--user", "1001", "secret", "--secret", "api-1")["rule"] == "api"
    status, out = explain("--user", "1001", "secret", "--secret", "db")
    assert status == 77
    assert "passed over: rule all in " in out
    assert ": secrets: not given: no secret\n" in out
    assert ": secrets: api*\n" in out
    assert "request: secret, secret 'db'" in out


def test_this_process(explain: Explain) -> None:
    found = document(explain, "--pid", str(os.getpid()), "status")
    assert found["caller"]["uid"] == os.geteuid()
    assert set(found["caller"]["groups"]) == set(os.getgroups())


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["sign"], 64),
        (["--group", "50", "sign"], 64),
        (["--pid", "1", "--user", "0", "sign"], 64),
        (["--user", "no-such-user", "sign"], 64),
        (["--user", "1", "--group", "no-such-group", "sign"], 64),
        (["--user", "4294967296", "sign"], 64),
        (["--user", "1", "quote"], 64),
        (["--user", "1", "sign", "--key", "a/b/c"], 64),
        (["--pid", "x", "sign"], 64),
        (["--pid", "99999999999", "sign"], 77),
    ],
)
def test_what_can_t_be_asked(explain: Explain, words: list[str], status: int) -> None:
    assert explain(*words) == (status, "")


def test_a_broken_policy_is_said(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "policy.d" / "20.toml").write_text("[[rule]]\n")
    assert explain("--user", "1", "sign")[0] == 78


def test_nothing_repaints_the_terminal(explain: Explain) -> None:
    out = explain("--unit", "\x1b[2Jx.service", "--user", "1", "sign", "--context", "\x1b[2J")[1]
    assert "\x1b" not in out


AS_USER = f"""
import os, sys
from agent import cli
os.setgroups([])
os.setresgid({STRANGER}, {STRANGER}, {STRANGER})
os.setresuid({STRANGER}, {STRANGER}, {STRANGER})
sys.exit(cli.main(["policy", "explain", "--json", "--config", sys.argv[1], "--pid", sys.argv[2] or str(os.getpid()), "status"]))
"""


def test_others_may_ask_about_their_own_processes_only() -> None:
    with open_folder() as folder:
        (folder / "c").write_text("")
        asked = [
            sys.executable,
            "-c",
            f"import agent.admin.explain, agent.commands.policy\n{AS_USER}",
            str(folder / "c"),
        ]
        own = subprocess.run([*asked, ""], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert json.loads(own.stdout)["caller"]["uid"] == STRANGER
        assert own.returncode == 77
        other = subprocess.run([*asked, str(os.getpid())], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert (other.returncode, json.loads(other.stdout)["error"]["code"]) == (77, "denied.peer")


def test_keys_of_this_boot_only(explain: Explain) -> None:
    make = ("--user", "1002", "keys.create", "--key", "a")
    assert document(explain, *make)["rule"] == "till"
    found = document(explain, *make, "--persistent")
    assert (found["allowed"], found["request"]["persistent"]) == (False, True)
    assert (found["passed_over"][-1]["selector"], found["passed_over"][-1]["values"]) == ("persistent", ["false"])
    out = explain(*make, "--persistent")[1]
    assert "key uid-1002/a, persistent\n" in out
    assert "persistent: false" in out
