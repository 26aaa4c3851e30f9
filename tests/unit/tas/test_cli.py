"""The command line: help with examples, exit codes, and that no secret is ever printed."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tas import cli
from tests.support.tas import snp_policy, tdx_policy

MEASUREMENT = "ab" * 48


@pytest.fixture(autouse=True)
def unhardened(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would change the test process itself.
    monkeypatch.setattr(cli, "harden", lambda **_: ())


class Tas:
    """``tas`` on one state: exit status, and what it printed."""

    def __init__(self, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state = state
        self.capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        status = cli.main([*words, "--state", str(self.state)])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def json(self, *words: str, status: int = 0) -> Any:
        found, out, _ = self(*words, "--json")
        assert found == status
        return json.loads(out)


@pytest.fixture
def tas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tas:
    made = Tas(tmp_path / "tas", capsys)
    assert made("init")[0] == 0
    return made


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(snp_policy("web", "disk", MEASUREMENT)))
    return path


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.words)
def test_help_has_an_example_that_parses(command: cli.Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.words.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "exit status" in text
    assert "example" in text
    assert command.example in text
    parsed = cli._parser().parse_args(command.example.split()[1:])
    assert parsed.run == command.run


@pytest.mark.parametrize("words", [[], ["secret"], ["nonsense"], ["secret", "create"], ["serve", "--listn", "x"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 64
    assert "usage: tas" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["", "8443", "localhost", "localhost:x", ":8443", "x:70000"])
def test_listen(tas: Tas, listen: str) -> None:
    status, _, err = tas("serve", "--listen", listen)
    assert status == 64
    assert "HOST:PORT" in err


@pytest.mark.parametrize("words", [("--rate-limit", "-1"), ("--read-seconds", "0"), ("--read-seconds", "nan")])
def test_limits(tas: Tas, words: tuple[str, str]) -> None:
    assert tas("serve", *words)[0] == 64


@pytest.mark.parametrize("words", [("secret", "list"), ("policy", "list"), ("check",)])
def test_no_state(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    status, _, err = Tas(tmp_path / "absent", capsys)(*words)
    assert status == 78
    assert "tas init" in err


def test_init_says_what_an_agent_needs(tas: Tas) -> None:
    facts = tas.json("init")
    assert facts["pin"].startswith("spki:sha256:")
    assert len(bytes.fromhex(facts["pin"].removeprefix("spki:sha256:"))) == 32
    assert Path(facts["api_key_file"]).read_text().strip() not in json.dumps(facts)


def test_secret_life(tas: Tas, tmp_path: Path) -> None:
    assert tas("secret", "create", "disk")[0] == 0
    assert tas("secret", "create", "big", "--bytes", "64")[0] == 0
    assert [(item["key_id"], item["bytes"]) for item in tas.json("secret", "list")["secrets"]] == [
        ("big", 64),
        ("disk", 32),
    ]
    assert tas.json("secret", "create", "disk", status=73)["error"]["code"] == "conflict"
    assert tas.json("secret", "delete", "disk", status=64)["error"]["code"] == "usage"
    assert tas("secret", "delete", "disk", "--yes")[0] == 0
    assert tas.json("secret", "delete", "disk", "--yes", status=66)["error"]["code"] == "no-such"


@pytest.mark.parametrize("words", [("a b",), ("disk", "--bytes", "16"), ("disk", "--bytes", "9999")])
def test_bad_secret(tas: Tas, words: tuple[str, ...]) -> None:
    assert tas("secret", "create", *words)[0] == 64


def test_secret_is_never_printed(tas: Tas, policy: Path) -> None:
    commands = [
        ("secret", "create", "disk"),
        ("secret", "list"),
        ("policy", "put", str(policy)),
        ("policy", "list"),
        ("policy", "show", "web"),
        ("check",),
    ]
    said = "".join("".join(map(str, tas(*words, *more))) for words in commands for more in ((), ("--json",)))
    database = sqlite3.connect(tas.state / "tas.sqlite")
    ((value,),) = database.execute("SELECT value FROM secrets").fetchall()
    database.close()
    key = (tas.state / "api-key").read_text().strip()
    assert not [text for text in (value.hex(), str(value), key) if text in said]


def test_secret_that_a_policy_names_stays(tas: Tas, policy: Path) -> None:
    tas("secret", "create", "disk")
    tas("policy", "put", str(policy))
    status, _, err = tas("secret", "delete", "disk", "--yes")
    assert status == 73
    assert "'web'" in err
    tas("policy", "delete", "web")
    assert tas("secret", "delete", "disk", "--yes")[0] == 0


def test_policy_life(tas: Tas, policy: Path) -> None:
    assert "there is no secret 'disk' yet" in tas("policy", "put", str(policy))[1]
    assert tas.json("policy", "put", str(policy), status=73)["error"]["code"] == "conflict"
    assert tas("policy", "put", str(policy), "--replace")[0] == 0
    assert tas.json("policy", "show", "web") == json.loads(policy.read_text())
    (listed,) = tas.json("policy", "list")["policies"]
    assert (listed["policy_id"], listed["key_id"], listed["policy_type"]) == ("web", "disk", "SEV")
    assert listed["problem"] == "there is no secret 'disk'"
    assert tas("policy", "delete", "web")[0] == 0
    assert tas("policy", "delete", "web")[0] == 66
    assert tas("policy", "show", "web")[0] == 66


def test_policy_from_standard_input(tas: Tas, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(policy.read_bytes())))
    assert tas("policy", "put", "-")[0] == 0
    assert tas("policy", "show", "web")[0] == 0


def test_signature_is_not_passed_over_in_silence(tas: Tas, policy: Path) -> None:
    document = {**json.loads(policy.read_text()), "signature": {"value": "eA=="}}
    policy.write_text(json.dumps(document))
    assert any(
        "is signed, and nobody checked it" in text for text in tas.json("policy", "put", str(policy))["warnings"]
    )


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    del document["validation_rules"][name]
    return document


REFUSED: dict[str, Any] = {
    "empty rules": {**snp_policy("web", "disk", MEASUREMENT), "validation_rules": {}},
    "empty rule": {**snp_policy("web", "disk", MEASUREMENT), "validation_rules": {"vmpl": {}}},
    "no measurement": {**snp_policy("web", "disk", MEASUREMENT), "validation_rules": {"vmpl": {"exact_match": 0}}},
    "no rtmr1": without(
        tdx_policy("web", "disk", dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2"), MEASUREMENT)), "rtmr1"
    ),
    "bad policy id": snp_policy("policy:web", "disk", MEASUREMENT),
    "bad key id": snp_policy("web", "disk/../x", MEASUREMENT),
    "no object": ["x"],
    "components": {**snp_policy("web", "disk", MEASUREMENT), "components": {"gpu": {}}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_policies(tas: Tas, tmp_path: Path, name: str) -> None:
    path = tmp_path / "refused.json"
    path.write_text(json.dumps(REFUSED[name]))
    status, _, err = tas("policy", "put", str(path))
    assert status == 65, err
    assert tas.json("policy", "list")["policies"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 60_000, b" " * ((1 << 16) + 1)])
def test_files_that_are_no_policy(tas: Tas, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "refused.json"
    path.write_bytes(content)
    assert tas("policy", "put", str(path))[0] == 65


def test_absent_policy_file(tas: Tas, tmp_path: Path) -> None:
    status, _, err = tas("policy", "put", str(tmp_path / "absent.json"))
    assert status == 64
    assert "No such file" in err


def test_open_state_is_refused(tas: Tas) -> None:
    tas.state.chmod(0o755)
    status, _, err = tas("secret", "list")
    assert status == 78
    assert "chmod 700" in err
