"""`tee-agent audit verify | tail` as a command: verdicts, words, hostile text, a log that grows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent import cli
from agent.core import audit
from agent.core.canonical import encode
from tests.support.auditlogs import CALLER, WHO, opened
from tests.support.daemon import CLI, ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = opened(tmp_path)
    for number in range(20):
        log.event(
            "key.created", severity="notice", caller=WHO, key=f"n/{number}", generation=1, algorithm="x", use="raw"
        )
    log.signed(CALLER, "ab" * 32)
    log.close()
    return tmp_path


def heads(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, object]:
    assert cli.main(["audit", "verify", "--folder", str(folder), "--json", *more]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_good_log_verifies_in_words_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "verify", "--folder", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "the chain holds, records 0 to" in text
    assert "no head was given" in text
    found = heads(folder, capsys)
    assert found["valid"]
    again = heads(folder, capsys, "--head", str(found["head"]))
    assert (again["after_expected"], again["expected_head"]) == (0, found["head"])
    assert len(found["files"]) > 1 if isinstance(found["files"], list) else False
    assert cli.main(["audit", "verify", "--folder", str(folder), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_the_configuration_says_where_the_log_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder / "agent.toml"
    config.write_text(f"[audit]\nfolder = {json.dumps(str(folder))}\n")
    assert cli.main(["audit", "verify", "--config", str(config)]) == 0
    assert "the chain holds" in capsys.readouterr().out


def test_copies_verify_in_their_order_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [*sorted(map(str, folder.glob("audit-0*.jsonl"))), str(folder / "audit.jsonl")]
    assert cli.main(["audit", "verify", *names]) == 0
    assert cli.main(["audit", "verify", *names[1:]]) == 0
    assert "older records are not here" in capsys.readouterr().out
    assert cli.main(["audit", "verify", *reversed(names)]) == 65
    assert cli.main(["audit", "verify", *names, "--folder", str(folder)]) == 64


def test_a_broken_log_names_file_and_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = min(folder.glob("audit-0*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"n/3", b"n/7"))
    assert cli.main(["audit", "verify", "--folder", str(folder)]) == 65
    said = capsys.readouterr().err
    assert f"{path.name}', line 7" in said
    assert "[verify.audit]" in said


def test_a_cut_shows_with_the_head_that_was_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = str(heads(folder, capsys)["head"])
    path = folder / "audit.jsonl"
    *lines, _ = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    assert cli.main(["audit", "verify", "--folder", str(folder)]) == 0
    assert cli.main(["audit", "verify", "--folder", str(folder), "--head", head]) == 65
    assert "cut or made anew" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--head", "xx"], ["--folder", "/nowhere"], ["/nowhere"]])
def test_wrong_use_is_64(words: list[str]) -> None:
    assert cli.main(["audit", "verify", *words]) == 64


def test_tail_says_it_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "tail", "--folder", str(folder), "-n", "15"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert "1 signatures by key abab" in lines[-1]
    assert lines[-1].endswith("by uid 1000, gid 1000, unit app.service")
    assert "key n/19 was made: generation 1, x, for raw" in lines[-2]
    assert cli.main(["audit", "tail", "--folder", str(folder), "-n", "2", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["records"]
    assert [record["kind"] for record in records] == ["key.created", "key.signed"]
    assert cli.main(["audit", "tail", "--folder", str(folder), "-n", "0"]) == 0
    assert cli.main(["audit", "tail", "--folder", str(folder), "-n", "-1"]) == 64


def test_hostile_lines_can_t_repaint_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "seq": 0,
        "time": "2026-11-22T12:00:00Z",
        "boot_id": "01234567-89ab-cdef-0123-456789abcdef",
        "kind": "what",
        "severity": "info",
        "caller": None,
        "fields": {"a": "{kind} %s"},
    }
    good = audit.record(audit.START, record)
    bad = encode({**json.loads(good), "fields": {"a": "\x1b[2J"}})
    (tmp_path / "audit.jsonl").write_bytes(good + b"\n" + bad + b"\n\x1b]0;x\x07\xff\n")
    assert cli.main(["audit", "tail", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "what a='{kind} %s'" in out
    assert out.count("no record of an audit log") == 2
    assert all(character.isprintable() or character == "\n" for character in out)


def test_follow_shows_what_is_written_over_a_rotation(folder: Path) -> None:
    argv = [*CLI, "audit", "tail", "--folder", str(folder), "-n", "1", "--follow", "--json"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        log = opened(folder)
        for number in range(30):
            log.event("key.ended", severity="info", key=f"n/{number}")
        seen = [first["seq"], *(json.loads(process.stdout.readline())["seq"] for _ in range(31))]
        log.close()
        process.kill()
    assert seen == list(range(first["seq"], first["seq"] + 32))


def test_its_reader_may_leave(folder: Path) -> None:
    argv = f"{sys.executable} -m agent.cli audit tail --folder {folder} -n 100 | head -n 1"
    done = subprocess.run(["sh", "-c", argv], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
