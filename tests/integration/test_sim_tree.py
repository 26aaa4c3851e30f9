"""The mounted tree as a client sees it: owners, modes, errnos, generations, and that nothing is left behind."""

from __future__ import annotations

import errno
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
DATA = bytes(range(64))
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def entry(simulator: Simulator) -> Iterator[Path]:
    """An entry of its own; the faults of the test are forgotten afterwards."""
    path = simulator.mount / "entry"
    path.mkdir()
    yield path
    simulator.clear()
    path.rmdir()


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


def commands() -> list[list[bytes]]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().split(b"\0"))
        except OSError:
            continue
    return found


def test_owners_and_modes(entry: Path) -> None:
    shown = {path.name: path.stat() for path in entry.iterdir()}
    assert {(status.st_uid, status.st_gid) for status in shown.values()} == {(0, 0)}
    assert {name: stat.S_IMODE(status.st_mode) for name, status in shown.items()} == {
        "inblob": 0o200,
        "privlevel": 0o200,
        **dict.fromkeys(("outblob", "auxblob", "generation", "provider", "privlevel_floor"), 0o444),
    }
    assert stat.filemode(entry.stat().st_mode) == stat.filemode(entry.parent.stat().st_mode) == "drwxr-xr-x"
    assert entry.stat().st_uid == 0


def test_a_client_gets_its_report(entry: Path) -> None:
    assert (entry / "provider").read_text() == "sev_guest\n"
    assert (entry / "privlevel_floor").read_text() == "0\n"
    (entry / "privlevel").write_text("1")
    (entry / "inblob").write_bytes(DATA)
    assert (entry / "generation").read_text() == "2\n"
    report = (entry / "outblob").read_bytes()
    assert len(report) == 1184
    assert report[0x50:0x90] == DATA
    assert report[0x30] == 1
    assert (entry / "outblob").read_bytes() == report
    assert (entry / "auxblob").read_bytes()[:16].hex() == "c0b406a4a80349529743" + "3fb6014cd0ae"
    assert (entry / "generation").read_text() == "2\n"


def test_the_commit_is_done_when_close_returns(entry: Path) -> None:
    for wanted in range(1, 20):
        (entry / "inblob").write_bytes(DATA)
        assert (entry / "generation").read_text() == f"{wanted}\n"


def test_a_shell_can_do_it(entry: Path) -> None:
    script = "head -c 64 /dev/zero > inblob && cat outblob | wc -c && cat generation"
    done = subprocess.run(["/bin/sh", "-c", script], cwd=entry, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1184", "1"]


def test_pieces_make_one_commit(entry: Path) -> None:
    with (entry / "inblob").open("wb", buffering=0) as inblob:
        inblob.write(DATA[:32])
        inblob.write(DATA[32:])
        assert (entry / "generation").read_text() == "0\n"
    assert (entry / "generation").read_text() == "1\n"
    assert (entry / "outblob").read_bytes()[0x50:0x90] == DATA


def test_errnos(entry: Path) -> None:
    refused(errno.EINVAL, (entry / "outblob").read_bytes)
    refused(errno.EFBIG, lambda: (entry / "inblob").write_bytes(bytes(65)))
    refused(errno.EACCES, (entry / "inblob").read_bytes)
    refused(errno.EACCES, lambda: (entry / "outblob").write_bytes(b"x"))
    refused(errno.EACCES, lambda: os.open(entry / "inblob", os.O_RDWR))
    refused(errno.EINVAL, lambda: (entry / "privlevel").write_text("4"))
    refused(errno.EEXIST, entry.mkdir)
    refused(errno.EPERM, (entry / "inblob").unlink)
    refused(errno.EPERM, (entry / "sub").mkdir)
    refused(errno.EACCES, (entry / "new").touch)
    refused(errno.EPERM, lambda: entry.rename(entry.parent / "other"))
    refused(errno.EPERM, lambda: (entry / "link").symlink_to("inblob"))
    refused(errno.EPERM, lambda: (entry / "inblob").chmod(0o666))
    refused(errno.EPERM, lambda: os.chown(entry, 1000, 1000))
    refused(errno.ENOTDIR, (entry / "inblob").rmdir)
    refused(errno.ENOENT, lambda: (entry.parent / "absent" / "inblob").write_bytes(DATA))


@pytest.mark.parametrize("size", [1, 32, 63])
def test_report_data_has_64_bytes(entry: Path, size: int) -> None:
    (entry / "inblob").write_bytes(bytes(size))
    refused(errno.EINVAL, (entry / "outblob").read_bytes)


def test_blobs_can_not_be_seeked_in(entry: Path) -> None:
    (entry / "inblob").write_bytes(DATA)
    with (entry / "outblob").open("rb", buffering=0) as outblob:
        assert outblob.read(4) == b"\3\0\0\0"
        refused(errno.ESPIPE, lambda: outblob.seek(0))
        assert len(outblob.read(2000) or b"") == 1180


def test_nobody_but_root(entry: Path) -> None:
    script = "mkdir ../mine; head -c 64 /dev/zero > inblob; cat generation"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=entry, user=65534, group=65534, extra_groups=[], capture_output=True, check=False
    )
    assert done.stderr.count(b"ermission denied") == 2, done.stderr
    assert done.stdout == b"0\n"
    assert not (entry.parent / "mine").exists()


def test_removing_an_entry_in_use(simulator: Simulator) -> None:
    path = simulator.mount / "short-lived"
    path.mkdir()
    (path / "inblob").write_bytes(DATA)
    with (path / "outblob").open("rb", buffering=0) as outblob:
        path.rmdir()
        refused(errno.ENOENT, lambda: outblob.read(10))
    path.mkdir()
    assert (path / "generation").read_text() == "0\n"
    path.rmdir()
    assert not path.exists()


def test_entries_are_independent(entry: Path) -> None:
    others = [entry.parent / f"other{index}" for index in range(5)]
    for index, other in enumerate(others):
        other.mkdir()
        (other / "inblob").write_bytes(bytes([index]) * 64)
    for index, other in enumerate(others):
        assert (other / "outblob").read_bytes()[0x50:0x90] == bytes([index]) * 64
        assert (other / "generation").read_text() == "1\n"
        other.rmdir()
    assert (entry / "generation").read_text() == "0\n"


def test_tdx_shows_what_its_driver_shows(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", tmp_path, pki_state) as running:
        path = running.mount / "e"
        path.mkdir()
        assert {found.name for found in path.iterdir()} == {"inblob", "outblob", "generation", "provider"}
        assert (path / "provider").read_text() == "tdx_guest\n"
        (path / "inblob").write_bytes(DATA)
        assert (path / "outblob").read_bytes()[:2] == b"\4\0"


def test_privlevel_floor(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("snp", tmp_path, pki_state, "--vmpl-floor", "2") as running:
        path = running.mount / "e"
        path.mkdir()
        assert (path / "privlevel_floor").read_text() == "2\n"
        (path / "inblob").write_bytes(DATA)
        refused(errno.EINVAL, (path / "outblob").read_bytes)
        refused(errno.EINVAL, lambda: (path / "privlevel").write_text("1"))
        (path / "privlevel").write_text("2")
        assert (path / "outblob").read_bytes()[0x30] == 2


def test_kernel_without_provider(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "sim",
        "--tee",
        "none",
        "--mount",
        str(tmp_path / "m"),
        "--state",
        str(tmp_path / "s"),
    ]
    subprocess.run(argv, cwd=REPOSITORY, check=True, timeout=60)
    try:
        refused(errno.ENXIO, (tmp_path / "m" / "e").mkdir)
        assert not list((tmp_path / "m").iterdir())
    finally:
        subprocess.run(["umount", tmp_path / "m"], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, pki_state: Path, number: signal.Signals) -> None:
    ready = tmp_path / "ready"
    with running_simulator("tdx", tmp_path, pki_state, "--ready-file", str(ready)) as running:
        assert int(ready.read_text()) == running.process.pid
        held = os.open(running.mount, os.O_RDONLY)
        running.process.send_signal(number)
        assert running.process.wait(30) == 0
        os.close(held)
        assert {path.name for path in tmp_path.iterdir()} == {"endorsements"}


def test_background_and_umount(tmp_path: Path, pki_state: Path) -> None:
    mount, ready = tmp_path / "m", tmp_path / "ready"
    argv = [sys.executable, "-m", "sim", "--tee", "tdx", "--mount", str(mount), "--state", str(pki_state)]
    subprocess.run([*argv, "--ready-file", str(ready)], cwd=REPOSITORY, check=True, timeout=60)
    assert mount.is_mount()
    again = subprocess.run(argv, cwd=REPOSITORY, check=False, timeout=60, capture_output=True, text=True)
    assert again.returncode == 73
    assert "another simulator" in again.stderr
    watched = os.pidfd_open(int(ready.read_text()))
    subprocess.run(["umount", mount], check=True)
    wait_until_gone(watched)
    assert not mount.exists()
    assert not ready.exists()
    assert not [argv for argv in commands() if str(mount).encode() in argv]


def test_what_can_not_be_mounted_is_said(tmp_path: Path, pki_state: Path) -> None:
    argv = [sys.executable, "-m", "sim", "--tee", "tdx", "--state", str(pki_state), "--mount"]
    deep = tmp_path / ("s" * 100) / ("s" * 100)
    for place, more in (("/proc/absent/tsm", []), (str(tmp_path / "m"), ["--control", str(deep)])):
        done = subprocess.run(
            [*argv, place, *more], cwd=REPOSITORY, check=False, timeout=60, capture_output=True, text=True
        )
        assert done.returncode == 69, done.stderr
        assert done.stderr.startswith("sim: ")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def wait_until_gone(pidfd: int) -> None:
    """Wait for the process to end."""
    assert select.select([pidfd], [], [], 30)[0], "the simulator did not end after umount"
    os.close(pidfd)


def test_a_stale_mount_is_replaced(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("tdx", tmp_path, pki_state) as killed:
        killed.process.kill()
        killed.process.wait()
        refused(errno.ENOTCONN, killed.mount.stat)
        with running_simulator("tdx", tmp_path, pki_state) as running:
            (running.mount / "e").mkdir()
            assert (running.mount / "e" / "generation").read_text() == "0\n"
    assert not killed.mount.is_mount()
