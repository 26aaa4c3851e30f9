"""The audit log on a full disk, with two writers, and with readers at work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.auditlog import follow, last
from agent.core.errors import Conflict, ServerError
from tests.support.auditlogs import CALLER, SMALL, WHO, opened, told, verify
from tests.support.daemon import ROOT


def test_two_writers_are_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    try:
        with pytest.raises(Conflict) as caught:
            opened(tmp_path)
        assert caught.value.code == "conflict.running"
    finally:
        log.close()
    opened(tmp_path).close()


FULL_DISK = """
import os, sys
from pathlib import Path
from agent.core.errors import ServerError
from tests.support.auditlogs import CALLER, WHO, opened, told
folder = Path(sys.argv[1])
log = opened(folder, max_bytes=1 << 20)
log.require_writable()
fill = os.open(folder / "fill", os.O_WRONLY | os.O_CREAT)
for size in (4096, 1):
    try:
        while True:
            os.write(fill, b"x" * size)
    except OSError:
        pass
while log.summary()["waiting"] == 0:
    log.event("key.created", severity="notice", caller=WHO, key="n/full", note="x" * 190)
try:
    log.require_writable()
    sys.exit("writable on a full disk")
except ServerError as error:
    assert error.code == "server.audit", error.code
    assert "No space left" in error.message, error.message
assert log.trouble is not None
assert log.summary()["trouble"]["code"] == "server.audit"
for _ in range(1000):
    log.signed(CALLER, "ab" * 32)
log.flush()
made = told(folder, log.head())
os.close(fill)
(folder / "fill").unlink()
log.require_writable()
assert log.trouble is None
log.flush()
records = told(folder, log.head())
assert len(records) > len(made)
kinds = [kind for kind, _ in records]
assert "log.resumed" in kinds
assert sum(fields["count"] for kind, fields in records if kind == "key.signed") == 1000
log.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_refuses_key_changes_and_nothing_else(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=1m tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, FULL_DISK]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_file_that_may_not_grow_tears_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "audit.jsonl").stat().st_size + 100, hard))
    try:
        log.event("key.created", severity="notice", caller=WHO, key="n/0")
        assert log.trouble is not None
        with pytest.raises(ServerError):
            log.require_writable()
        assert (tmp_path / "audit.jsonl").read_bytes().endswith(b"\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.require_writable()
    log.close()
    assert [kind for kind, _ in told(tmp_path)][-2:] == ["key.created", "log.resumed"]


def test_readers_see_a_whole_chain_while_files_are_renamed(tmp_path: Path) -> None:
    log = opened(tmp_path)
    over = threading.Event()

    def write() -> None:
        for number in range(150):
            log.event("key.created", severity="notice", caller=WHO, key=f"n/{number}", note="x" * 190)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen, lines = 0, follow(tmp_path, -1)
    order = [record.seq for record in (next(lines).record for _ in range(100)) if record]
    while not over.is_set():
        found = verify(tmp_path)
        assert found.head.seq >= seen
        seen = found.head.seq
        assert last(tmp_path, 20)
    thread.join()
    log.close()
    lines.close()
    assert order == list(range(100))
    assert verify(tmp_path, log.head()).head.digest == log.head()
    assert len(list(tmp_path.glob("audit-*.jsonl"))) > 150 * 500 // SMALL // 2


def test_old_files_go_and_the_rest_verifies(tmp_path: Path) -> None:
    log = opened(tmp_path, keep=2)
    for number in range(60):
        log.event("key.created", severity="notice", caller=WHO, key=f"n/{number}", note="x" * 190)
        log.signed(CALLER, "ab" * 32)
    log.close()
    assert len(list(tmp_path.glob("audit-*.jsonl"))) == 2
    found = verify(tmp_path, log.head())
    assert found.head.first.seq > 0
    assert len(found.files) == 3
