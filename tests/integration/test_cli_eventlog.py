"""`tee-agent eventlog` and `evidence verify --eventlog` over genuine logs; extend on a fake folder of registers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.commands import eventlog as command
from agent.rtmr import Registers, read_event_log
from tdx import ccel
from tdx.eventlog import replay
from tests.support import vectors
from tests.unit.agent.test_rtmr import acpi, kernel
from tests.unit.tdx.logs import events

LOGS = {"gcp-cos113-ccel": "v4-gcp-ccel", "dstack-json": "v4-dstack-json-log"}


def log(name: str) -> str:
    folder = vectors.ROOT / "eventlog" / name
    if not folder.is_dir():
        pytest.skip(f"no vectors at {vectors.ROOT}: set TEE_AGENT_VECTORS")
    return str(next(folder / file for file in ("ccel.bin", "event_log.json") if (folder / file).exists()))


def quote(name: str) -> Path:
    return vectors.ROOT / "tdx" / name


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    status, out, err = run(capsys, *words, "--json")
    assert err == ""
    loaded: dict[str, Any] = json.loads(out)
    return status, loaded


@pytest.mark.parametrize("folder", vectors.cases("eventlog"))
def test_show(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = vectors.meta(folder)["expected"]
    status, found = run_json(capsys, "eventlog", "show", log(folder.name))
    assert status == 0
    assert found["rtmrs"] == {name: expected[name] for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")}
    status, out, err = run(capsys, "eventlog", "show", log(folder.name))
    assert (status, err) == (0, "")
    assert all(f"  {name} {value}\n" in out for name, value in found["rtmrs"].items())
    assert "claimed: TdxTable" in out


@pytest.mark.parametrize(("name", "evidence"), LOGS.items())
def test_verify_against_its_quote_and_another(name: str, evidence: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = run_json(capsys, "eventlog", "verify", log(name), "--quote", str(quote(evidence) / "quote.bin"))
    assert (status, found["valid"], found["error"]) == (0, True, None)
    assert {row["status"] for row in found["registers"]} <= {"matches", "no events"}
    other = next(value for value in LOGS.values() if value != evidence)
    words = ("eventlog", "verify", log(name), "--quote", str(quote(other) / "quote.bin"))
    status, found = run_json(capsys, *words)
    assert (status, found["valid"], found["error"]["code"]) == (65, False, "verify.eventlog")
    status, out, err = run(capsys, *words)
    assert status == 65
    assert out.endswith("event log: REFUSED\n")
    assert err.startswith("tee-agent: event log: RTMR0: ")


@pytest.mark.parametrize(("name", "evidence"), LOGS.items())
def test_evidence_verify_with_its_log(name: str, evidence: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = quote(evidence)
    at = vectors.meta(folder)["verify_at"]
    words = ["evidence", "verify", str(folder / "quote.bin"), "--collateral", str(folder), "--at", at, "--eventlog"]
    status, found = run_json(capsys, *words, log(name))
    assert (status, found["valid"]) == (0, True)
    numbers = [check["number"] for check in found["checks"]]
    assert numbers == sorted(set(numbers))
    assert [check["name"] for check in found["checks"]][-6:-1] == [
        "event log: well-formed",
        *(f"event log: RTMR{index}" for index in range(4)),
    ]
    status, found = run_json(capsys, *words, log("grub-ccel"))
    assert (status, found["valid"], found["signature_valid"]) == (65, False, True)
    assert found["error"]["code"] == "verify.eventlog"
    assert "policy: not applied" in found["not_checked"]
    assert found["checks"][-1]["ok"] is False
    assert run(capsys, *words, "/nonexistent")[0] == 64
    assert run_json(capsys, *words, str(folder / "quote.bin"))[1]["error"]["code"].startswith("format")


def test_an_snp_report_has_no_event_log(capsys: pytest.CaptureFixture[str]) -> None:
    path = log("ovmf-ccel")
    folder = vectors.ROOT / "snp" / "turin-v5-vcek"
    words = ["evidence", "verify", str(folder / "report.bin"), "--certs", str(folder), "--at", "2026-09-15T00:00:00Z"]
    assert run(capsys, *words, "--eventlog", path)[0] == 64


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with our small log and the registers that it explains."""
    registers = tmp_path / "measurements"
    registers.mkdir()
    for index, value in replay(events()).items():
        (registers / f"rtmr{index}:sha384").write_bytes(value)
    tables = acpi(tmp_path / "tables", ccel.build(events(), 4096), 4096)
    monkeypatch.setattr(command, "Registers", lambda: Registers(registers, kernel))
    monkeypatch.setattr(command, "read_event_log", lambda: read_event_log(tables))
    return registers


def test_this_machine(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = run_json(capsys, "eventlog", "show")[1]
    assert shown["format"] == "ccel"
    assert shown["registers"] == {f"{name}:sha384": value for name, value in shown["rtmrs"].items()}
    assert (
        "registers of this machine, as its kernel shows them:\n  rtmr0:sha384  " in run(capsys, "eventlog", "show")[1]
    )
    status, out, _ = run(capsys, "eventlog", "verify")
    assert status == 0
    assert "registers from this machine's kernel:" in out
    assert "registers: no signature was verified, they are what this machine's kernel says" in out
    assert run(capsys, "eventlog", "verify", "--quiet") == (0, "", "")


def test_a_kernel_without_registers(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in [*machine.iterdir()]:
        path.unlink()
    machine.rmdir()
    assert run_json(capsys, "eventlog", "show")[1]["registers"] is None
    assert run(capsys, "eventlog", "verify")[0] == 69
    status, out, err = run(capsys, "eventlog", "extend", "--rtmr", "2", "--digest", "ab" * 48)
    assert (status, out) == (69, "")
    assert "Linux 6.16" in err


def test_extend(machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (machine / "rtmr3:sha384").read_bytes()
    content = tmp_path / "config.json"
    content.write_bytes(b"{}")
    status, found = run_json(capsys, "eventlog", "extend", "--rtmr", "3", "--file", str(content))
    digest = hashlib.sha384(b"{}").digest()
    after = hashlib.sha384(before + digest).hexdigest()
    assert (status, found) == (
        0,
        {"register": "rtmr3", "digest": digest.hex(), "before": before.hex(), "after": after},
    )
    assert (machine / "rtmr3:sha384").read_bytes().hex() == after
    status, out, _ = run(capsys, "eventlog", "extend", "--rtmr", "2", "--digest", "ab" * 48)
    assert status == 0
    assert "not undone before the next boot" in out
    status, found = run_json(capsys, "eventlog", "verify")
    assert (status, [row["status"] for row in found["registers"]]) == (65, ["matches", "matches", "differs", "differs"])


@pytest.mark.parametrize(
    "words",
    [
        ["--rtmr", "1", "--digest", "ab" * 48],
        ["--rtmr", "3", "--digest", "ab" * 47],
        ["--rtmr", "3", "--digest", "zz" * 48],
        ["--rtmr", "3"],
        ["--digest", "ab" * 48],
        ["--rtmr", "3", "--file", "/nonexistent"],
        ["--rtmr", "3", "--file", "/", "--digest", "ab" * 48],
    ],
)
def test_extend_refuses_before_it_writes(machine: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in machine.iterdir()}
    assert run(capsys, "eventlog", "extend", *words)[0] == 64
    assert {path.name: path.read_bytes() for path in machine.iterdir()} == before


def test_help_warns(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "eventlog", "extend", "--help")[1]
    assert "CAN'T BE UNDONE" in out
    assert "Only root" in out


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(b"no log")
    assert run(capsys, "eventlog", "show", str(bad))[0] == 65
    assert run(capsys, "eventlog", "show", "/nonexistent")[0] == 64
    assert run(capsys, "eventlog", "verify", str(bad), "--quote", str(bad))[0] == 65
    path = quote("v4-gcp-ccel") / "quote.bin"
    if path.exists():
        status, found = run_json(capsys, "eventlog", "verify", str(bad), "--quote", str(path))
        assert (status, found["valid"], found["error"]["code"]) == (65, False, "format.truncated")
