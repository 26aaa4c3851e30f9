"""The cache as a folder: what is removed, and what never is."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.collateral.cache import MAX_FILE, Cache
from agent.core.errors import DeadlineExceeded
from agent.deadline import Deadline
from tests.support.clock import FakeClock

NOW = datetime.now(UTC)
OURS = (
    "snp/Genoa/vcek/chain.pem",
    "snp/Genoa/vlek/crl.der",
    f"snp/Turin/vcek/{'0' * 16}/{'a' * 16}.der",
    f"snp/Milan/vcek/{'0' * 128}/{'a' * 16}.der",
    f"tdx/certs/{'0' * 64}.der",
    "tdx/crl/root.der",
    "tdx/crl/processor.der",
    "tdx/qe/early/qe_identity.json",
    "tdx/tcb/00a06f000000-standard/tcb_info.json",
)
THEIRS = (
    "our-own.pem",
    "snp/notes.txt",
    "tdx/tcb/mine/tcb_info.json",
    "snp/Genoa/vcek/old.der",
    "tdx/crl/root.der.bak",
)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache")
    for name in OURS:
        made.write(name, name.encode())
    for name in THEIRS:
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("an admin's")
    return made


def test_names_are_ours_only(cache: Cache) -> None:
    assert sorted(cache.names()) == sorted(OURS)


def test_prune_removes_what_is_no_longer_used_and_only_that(cache: Cache) -> None:
    assert cache.prune(timedelta(days=90), NOW) == ()
    late = NOW + timedelta(days=100)
    used = OURS[0]
    os.utime(cache.folder / used, (late.timestamp(), late.timestamp()))
    assert sorted(cache.prune(timedelta(days=90), late)) == sorted(set(OURS) - {used})
    assert list(cache.names()) == [used]
    assert [name for name in THEIRS if not (cache.folder / name).exists()] == []
    assert not (cache.folder / "snp" / "Turin").exists(), "empty folders go too"


@pytest.mark.parametrize("kind", ["folder", "fifo", "link", "long"])
def test_what_is_not_a_file_of_ours_reads_as_nothing(kind: str, cache: Cache) -> None:
    path = cache.folder / OURS[0]
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.write_bytes(bytes(MAX_FILE + 1))
    assert cache.read(OURS[0]) is None
    assert (OURS[0] in set(cache.names())) is (kind == "long")


def test_a_touched_link_changes_nothing_elsewhere(cache: Cache, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    os.utime(victim, (0, 0))
    path = cache.folder / OURS[0]
    path.unlink()
    path.symlink_to(victim)
    cache.touch(OURS[0])
    cache.write(OURS[0], b"new")
    assert (victim.read_text(), victim.stat().st_mtime) == ("x", 0)
    assert cache.read(OURS[0]) == b"new"


def test_who_reads_meanwhile_reads_the_old_one_to_its_end(cache: Cache) -> None:
    with (cache.folder / OURS[0]).open("rb") as old:
        cache.write(OURS[0], b"new" * 100_000)
        assert old.read() == OURS[0].encode()
    assert cache.read(OURS[0]) == b"new" * 100_000


def test_drafts_of_the_killed_are_swept_and_never_read(cache: Cache) -> None:
    drafts = [cache.folder / ".x.part", cache.folder / "tdx" / "crl" / ".y.part"]
    for draft in drafts:
        draft.write_bytes(b"half")
    with cache.locked(Deadline(5, "test")):
        assert not [draft for draft in drafts if draft.exists()]


def test_one_at_a_time(cache: Cache) -> None:
    clock = FakeClock()
    with (
        cache.locked(Deadline(5, "test")),
        pytest.raises(DeadlineExceeded, match="another process"),
        cache.locked(Deadline(5, "test", clock)),
    ):
        pass
    assert clock.sleeps
    with cache.locked(Deadline(5, "test")):
        pass
