"""The command around it: arguments, text, JSON, exit status. The service is a stand-in, cryptsetup isn't run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent import cli, session
from agent.admin.measured import Boot
from agent.commands import disk
from agent.core.errors import NotBound
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.disk.bind import Bound
from agent.disk.measured import Measured
from agent.disk.unbind import Unbound
from agent.disk.unlock import Opened
from tests.support import luks

BOUND = Bound("u-u-i-d", 1, 0, "policy-a", 3, changed=True)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(disk, "harden", lambda: ())
    path = tmp_path / "tee-agent.toml"
    path.write_text(f'[[volume]]\nname = "data"\ndevice = "{tmp_path}/data.img"\npolicy_ids = ["policy-a"]\n')
    return path


def tee_agent(config: Path, *argv: str) -> int:
    return cli.main(["disk", *argv, "--config", str(config)])


def test_help_text_is_the_overview_s() -> None:
    assert cli.COMMANDS["disk"] == disk.HELP


def test_bind_passes_what_was_asked_for(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def bind(volume: Any, **options: Any) -> Bound:
        seen.update(options, volume=volume)
        return BOUND

    monkeypatch.setattr(disk, "bind", bind)
    monkeypatch.setattr("agent.commands.disk.measured.looked", lambda _: Boot(Measured("no", "firmware alone")))
    key = config.with_name("key")
    key.write_bytes(b"pass\n")
    assert tee_agent(config, "bind", "data", "--key-file", str(key), "--unmeasured-boot") == 0
    assert (seen["volume"].name, seen["unmeasured_boot"]) == ("data", True)
    assert seen["boot"] == Measured("no", "firmware alone")
    assert seen["ask"]().reveal() == b"pass\n"
    assert capsys.readouterr().out.splitlines() == [
        "data: bound",
        "  volume u-u-i-d, keyslot 1, token 0, policy policy-a",
        "  initramfs measured: no: firmware alone",
        "  next: tee-agent disk test data",
    ]
    assert tee_agent(config, "bind", "data", "--json") == 0
    assert seen["unmeasured_boot"] is False
    assert json.loads(capsys.readouterr().out) == {
        "volume": "data",
        "device": f"{config.parent}/data.img",
        "uuid": "u-u-i-d",
        "slot": 1,
        "token": 0,
        "key_id": "policy-a",
        "generation": 3,
        "changed": True,
        "initramfs_measured": "no",
    }
    assert tee_agent(config, "bind", "data", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "case",
    [
        ("test", Opened("u", 1, "p", "", "test-opened, not mapped"), "data: test-opened, not mapped"),
        ("unlock", Opened("u", 1, "p", "/dev/mapper/data"), "data: mapped as /dev/mapper/data"),
        ("unbind", Unbound("u", 1, 0), "data: unbound: keyslot 1 wiped, token 0 removed"),
        ("unbind", Unbound("u", None, 0), "data: unbound: no keyslot of ours was left, token 0 removed"),
    ],
)
def test_results_are_told(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[str, Opened | Unbound, str],
) -> None:
    action, result, said = case
    monkeypatch.setattr(disk, action, lambda volume, **_: result)
    assert tee_agent(config, action, "data") == 0
    assert capsys.readouterr().out.splitlines()[0] == said
    assert tee_agent(config, action, "data", "--json") == 0
    assert json.loads(capsys.readouterr().out)["slot"] == result.slot


def test_errors_become_exit_status_and_json(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(volume: Any, **_: Any) -> Opened:
        raise NotBound("volume data has no tee-agent token", hint="bind it")

    monkeypatch.setattr(disk, "test", fail)
    assert tee_agent(config, "test", "data") == 66
    assert capsys.readouterr().err == ("tee-agent: volume data has no tee-agent token\n  bind it\n  [disk.not-bound]\n")
    assert tee_agent(config, "test", "data", "--json") == 66
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "disk.not-bound"


def test_an_unknown_volume_names_the_known_ones(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tee_agent(config, "test", "root") == 64
    assert "configured: data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [[], ["bind"], ["list", "data"], ["test", "data", "--key-file", "x"], ["format", "data"]]
)
def test_usage(config: Path, argv: list[str]) -> None:
    assert tee_agent(config, *argv) == 64


def test_list_needs_no_service(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tee_agent(config, "list") == 0
    assert "data: unreadable" in capsys.readouterr().out
    image = config.parent / "data.img"
    with image.open("wb") as file:
        file.truncate(luks.IMAGE_BYTES)
        file.write(luks.header_bytes(*luks.sample()))
    assert tee_agent(config, "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"data: bound ({image})",
        f"  volume {luks.UUID}; keyslot 1, policy policy-a; other keyslots: 0",
    ]
    with image.open("r+b") as file:
        file.write(bytes(100))
    assert tee_agent(config, "list", "--json") == 0
    (one,) = json.loads(capsys.readouterr().out)["volumes"]
    assert (one["state"], one["intact"], one["foreign_slots"]) == ("bound", False, [0])
    assert tee_agent(config, "list") == 0
    assert "needs mending" in capsys.readouterr().out


def test_list_of_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text("")
    assert tee_agent(config, "list") == 0
    assert capsys.readouterr().out == "no volume is configured\n"


def test_without_a_service_a_secret_is_a_configuration_error(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "test", lambda volume, *, fetch, deadline: fetch("policy-a", deadline))
    assert tee_agent(config, "test", "data") == 78
    assert "[tas]" in capsys.readouterr().err


def test_the_service_s_deadline_bounds_the_fetch(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(
        config.read_text() + '[tas]\nurl = "http://127.0.0.1:1"\napi_key_file = "/nowhere"\ndeadline_seconds = 7\n'
    )
    seen: list[Deadline] = []

    class Service:
        def fetch_secret(self, policy_id: str, deadline: Deadline) -> Secret:
            seen.append(deadline)
            return Secret(luks.SECRET)

    def test(volume: Any, *, fetch: Any, deadline: Any) -> Opened:
        fetch("policy-a", deadline)
        return Opened("u", 1, "p")

    monkeypatch.setattr(session, "open_tas", lambda config: Service())
    monkeypatch.setattr(disk, "test", test)
    assert tee_agent(config, "test", "data") == 0
    assert seen[0].seconds == 7
