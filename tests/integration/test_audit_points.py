"""`tee-agent audit verify --key --tas-heads`: a log against statements of keys, and against what a service holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.core import keydoc
from agent.core.bundle import Bundle, Payload
from agent.core.bundle_parts import Attachments
from agent.core.model import Endorsements, Tee
from agent.core.statement import AuditHead, Statement
from tests.support.auditlogs import BOOT, opened
from tests.support.bundles import statement

SPKI = bytes.fromhex("302a300506032b6570032100") + bytes(range(32))
OTHER_BOOT = "11111111-2222-3333-4444-555555555555"
Run = Callable[..., tuple[int, Any]]


@dataclass
class World:
    """A log, the statements made while it was written, and room for what is made of them."""

    log: Path
    statements: list[Statement]
    files: Path

    def key(self, number: int, **changes: Any) -> str:
        """A key document with the statement of that number."""
        made = replace(self.statements[number], **changes)
        attached = Attachments(Tee.SNP, b"report", Endorsements((b"c",), (), b"", b""), SPKI, made)
        path = self.files / f"{made.digest().hex()[:16]}.key"
        path.write_bytes(keydoc.build(attached))
        return str(path)

    def bundle(self, number: int) -> str:
        attached = Attachments(Tee.SNP, b"report", Endorsements((b"c",), (), b"", b""), SPKI, self.statements[number])
        path = self.files / "a.bundle"
        path.write_bytes(Bundle(Payload.of(b"x"), "", "", attached).signed(bytes(64)).encode())
        return str(path)

    def heads(self, *statements: Statement, **changes: Any) -> str:
        """What the service would print of these."""
        listed = [
            {
                "boot_id": made.boot_id,
                "seq": made.audit.seq if made.audit else None,
                "head": made.audit.head if made.audit else "",
                "statement": made.digest().hex(),
                **changes,
            }
            for made in statements
        ]
        path = self.files / "heads.json"
        path.write_text(json.dumps({"heads": listed, "kept": len(listed), "alerts": 0}, indent=2))
        return str(path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Three keys: the first two with a record of their own, the third a renewal."""
    folder = tmp_path / "log"
    folder.mkdir()
    log, made = opened(folder), list[Statement]()
    for number in range(3):
        head = log.anchor()
        assert head
        made.append(statement(datetime(2026, 1, 1, number, tzinfo=UTC), boot_id=BOOT, audit=head))
        if number < 2:
            log.event("key.created", severity="notice", statement=made[-1].digest().hex(), key=f"n/{number}")
        for _ in range(12):
            log.event("key.ended", severity="info", note="x" * 190)
        for kind, one in (("head.kept", made[-1]), ("key.rotated", made[0])):
            log.event(kind, severity="info", statement=one.digest().hex())
    log.close()
    return World(folder, made, tmp_path)


@pytest.fixture
def run(world: World, capsys: pytest.CaptureFixture[str]) -> Run:
    def verify(*words: str) -> tuple[int, Any]:
        status = cli.main(["audit", "verify", "--folder", str(world.log), "--json", *words])
        return status, json.loads(capsys.readouterr().out or "{}")

    return verify


def broken(answer: tuple[int, Any]) -> str:
    status, document = answer
    assert (status, document["error"]["code"]) == (65, "verify.audit"), document
    return str(document["error"]["message"])


def test_keys_are_found_with_the_records_about_them(world: World, run: Run) -> None:
    words = [word for number in range(3) for word in ("--key", world.key(number))]
    status, found = run(*words, "--key", world.bundle(1))
    assert status == 0
    seqs = [made.audit.seq for made in world.statements if made.audit]
    assert [key["seq"] for key in found["keys"]] == [*seqs, seqs[1]]
    assert [key["told"] for key in found["keys"]] == [seqs[0] + 1, seqs[1] + 1, None, seqs[1] + 1]
    assert all(key["found"] for key in found["keys"])
    assert found["tas_heads"] is None
    assert f"the end: lines cut off behind record {seqs[2]}, the last" in found["not_checked"][0]
    assert any("tee-agent verify" in text for text in found["not_checked"])


def test_words(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", "verify", "--folder", str(world.log), "--key", world.key(0), "--key", world.key(2)]) == 0
    text = capsys.readouterr().out
    assert "its statement names record" in text
    assert "tells of the key" in text
    assert "a renewed statement" in text


def test_a_log_that_was_made_anew_is_refused(world: World, run: Run) -> None:
    key = world.key(1)
    shutil.rmtree(world.log)
    world.log.mkdir()
    log = opened(world.log)
    for number in range(40):
        log.event("key.created", severity="notice", key=f"n/{number}")
    log.close()
    assert "made anew" in broken(run("--key", key))
    assert run()[0] == 0


def test_a_log_that_was_cut_behind_is_refused(world: World, run: Run) -> None:
    """Whole files from the end, so that what is left verifies by itself."""
    key, service = world.key(2), world.heads(*world.statements)
    (world.log / "audit.jsonl").unlink()
    kept = sorted(world.log.glob("audit-0*.jsonl"))
    for path in kept[1:]:
        path.unlink()
    kept[0].rename(world.log / "audit.jsonl")
    assert run()[0] == 0
    assert "cut off since" in broken(run("--key", key))
    assert "cut off since" in broken(run("--tas-heads", service))


def test_a_statement_of_another_boot_or_without_a_log_is_refused(world: World, run: Run) -> None:
    assert "made anew" in broken(run("--key", world.key(0, boot_id=OTHER_BOOT)))
    assert "names no record" in broken(run("--key", world.key(0, audit=None)))
    head = world.statements[0].audit
    assert head
    assert "made anew" in broken(run("--key", world.key(0, audit=AuditHead(head.seq + 1, head.head))))
    assert "cut off" in broken(run("--key", world.key(0, audit=AuditHead(10_000, head.head))))
    assert "cut off" in broken(run("--key", world.key(0, boot_id=OTHER_BOOT, audit=AuditHead(10_000, head.head))))


def test_what_is_older_than_the_log_is_said(world: World, run: Run) -> None:
    for path in sorted(world.log.glob("audit-0*.jsonl"))[:2]:
        path.unlink()
    status, found = run("--key", world.key(0), "--tas-heads", world.heads(*world.statements))
    assert status == 0
    assert (found["keys"][0]["found"], found["tas_heads"]["older"]) == (False, 2)
    assert any("older than the log" in text for text in found["not_checked"])


def test_the_service_s_heads_of_this_machine_are_compared_and_others_are_not(world: World, run: Run) -> None:
    strangers = [replace(made, boot_id=OTHER_BOOT) for made in world.statements]
    far = replace(strangers[0], audit=AuditHead(99_999, "00" * 32))
    unnamed = replace(world.statements[0], audit=None)
    status, found = run("--tas-heads", world.heads(*world.statements, *strangers, far, unnamed))
    assert status == 0
    assert found["tas_heads"] == {"found": 3, "older": 0, "other_boots": 4, "without_record": 1}
    wrong = replace(world.statements[1], audit=AuditHead(5, "ab" * 32))
    assert "made anew" in broken(run("--tas-heads", world.heads(*world.statements, wrong)))


def test_a_list_without_this_machine_is_refused(world: World, run: Run) -> None:
    strangers = [replace(made, boot_id=OTHER_BOOT) for made in world.statements]
    assert "no head of a boot" in broken(run("--tas-heads", world.heads(*strangers)))
    assert "no head of a boot" in broken(run("--tas-heads", world.heads()))


def test_a_boot_that_the_log_hides_at_that_record_is_found_out(world: World, run: Run) -> None:
    """A log made anew that gives the record to another boot, and knows the head's boot elsewhere."""
    head = world.statements[1].audit
    assert head
    shutil.rmtree(world.log)
    world.log.mkdir()
    for boot in (OTHER_BOOT, BOOT):
        log = opened(world.log, 1 << 20)
        log._file._boot_id = boot
        for _ in range(head.seq + 3):
            log.event("key.ended", severity="info")
        log.close()
    assert "another boot" in broken(run("--tas-heads", world.heads(world.statements[1])))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": "1"},
        {"seq": -1},
        {"seq": True},
        {"head": "ab"},
        {"head": 1},
        {"boot_id": "x"},
        {"statement": 5},
        {"statement": "\x1b" * 128},
        {"seq": 1 << 60},
    ],
)
def test_a_list_that_is_none_is_refused(world: World, run: Run, changes: dict[str, Any]) -> None:
    status, document = run("--tas-heads", world.heads(world.statements[0], **changes))
    assert (status, document["error"]["code"]) == (65, "format")


def test_other_files_are_refused_by_name(world: World, run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    assert run("--tas-heads", str(tmp_path / "list.json"))[0] == 65
    (tmp_path / "list.json").write_text('{"heads": [1]}')
    assert run("--tas-heads", str(tmp_path / "list.json"))[0] == 65
    (tmp_path / "some.jws").write_bytes(b"eyJhbGciOiJFZERTQSJ9.eA.eA")
    status, document = run("--key", str(tmp_path / "some.jws"))
    assert (status, document["error"]["code"]) == (64, "usage")
    assert "has no statement" in document["error"]["message"]
