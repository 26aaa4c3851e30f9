"""How the daemon starts, what its processes may do, and how it ends."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import Nonce
from tests.support.daemon import (
    CLI,
    FETCHER,
    ROLES,
    ROOT,
    SIGNER,
    STOP_SECONDS,
    Daemon,
    await_ready,
    open_folder,
    running_daemon,
    start,
    write_config,
)
from tests.support.simulator import Simulator, running_simulator
from tests.support.tas import running_tas

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_each_role_has_no_more_than_it_needs(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder) as daemon:
        network = Path("/proc/self/ns/net").readlink()
        for name, uid in (("quoter", 0), ("fetcher", FETCHER), ("signer", SIGNER)):
            pid = daemon.role(name)
            found = facts(pid)
            assert found["Uid"].split() == [str(uid)] * 4
            assert found["Gid"].split() == [str(uid)] * 4
            assert uid == 0 or found["Groups"] == ""
            assert {int(found[kind], 16) for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
            assert found["NoNewPrivs"] == "1"
            assert found["Name"] == f"tee-{name}"
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0
            assert "Max core file size        0                    0" in Path(f"/proc/{pid}/limits").read_text()
            assert (Path(f"/proc/{pid}/ns/net").readlink() == network) == (name != "signer")
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            assert {entry.partition(b"=")[0] for entry in variables if entry} == {b"PATH", b"LANG"}


def test_terminated_it_leaves_no_socket(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder) as daemon:
        assert daemon.post("/v1/sign", b"x").status == 200
        assert daemon.terminate() == 0
        assert [path for path in daemon.runtime.iterdir() if path.suffix == ".sock"] == []
        assert not daemon.simulator_entries()


def test_a_second_one_is_refused_and_disturbs_nobody(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder) as daemon:
        words = [*CLI, "daemon", "--config", str(daemon.config)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 73
        assert "conflict.running" in done.stderr
        assert daemon.post("/v1/sign", b"x").status == 200


def test_a_stale_socket_is_replaced(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder) as daemon:
        roles = [os.pidfd_open(daemon.role(name)) for name in ROLES]
        daemon.process.kill()
        daemon.process.wait()
        # The roles notice that their supervisor is gone.
        for pidfd in roles:
            assert select.select([pidfd], [], [], STOP_SECONDS)[0]
            os.close(pidfd)
        assert daemon.socket.is_socket()
    with running_daemon(simulator, folder) as daemon:
        assert daemon.post("/v1/sign", b"x").status == 200


@pytest.mark.parametrize("name", ROLES)
def test_a_dying_role_takes_all_down(simulator: Simulator, folder: Path, name: str) -> None:
    with running_daemon(simulator, folder) as daemon:
        others = [os.pidfd_open(daemon.role(other)) for other in ROLES if other != name]
        os.kill(daemon.role(name), signal.SIGKILL)
        assert daemon.process.wait(STOP_SECONDS) == 128 + signal.SIGKILL
        for pidfd in others:
            assert select.select([pidfd], [], [], 0)[0]
            os.close(pidfd)
        assert f"the {name} was ended by signal 9" in daemon.log


def test_it_hears_of_a_death_where_sigchld_was_ignored(simulator: Simulator, folder: Path) -> None:
    """Whoever started it may have left it so: exec passes it on."""
    deaf = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    with running_daemon(simulator, folder, within=[sys.executable, "-c", deaf]) as daemon:
        os.kill(daemon.role("fetcher"), signal.SIGKILL)
        assert daemon.process.wait(STOP_SECONDS) == 128 + signal.SIGKILL


def outcome(folder: Path, simulator: Simulator, **daemon: Any) -> tuple[int, str]:
    config = write_config(folder, simulator, **daemon)
    words = [*CLI, "daemon", "--config", str(config)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_without_a_tee_there_is_nothing_to_serve(simulator: Simulator, folder: Path) -> None:
    (folder / "empty").mkdir()
    absent = Simulator(simulator.tee, simulator.process, folder / "absent", simulator.export, simulator.control)
    status, said = outcome(folder, absent)
    assert status == 69
    assert said.count("[platform.") == 1
    assert list((folder / "run").iterdir()) == []
    assert not (folder / "audit").exists()  # the other two were never told to go


def test_a_role_that_was_not_told_to_go_does_nothing_and_ends_with_its_supervisor(
    simulator: Simulator, folder: Path
) -> None:
    arguments = ("daemon", "--role", "signer", "--supervised", "--config", str(write_config(folder, simulator)))
    code = f"from agent.daemon.child import spawn; spawn('signer', {arguments!r}, {{}})"
    # Standard error is the role's too: this returns when both have ended.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=True)
    assert done.stderr == b""
    assert not (folder / "audit").exists()
    assert not (folder / "run").exists()


def test_configurations_that_are_refused(simulator: Simulator, folder: Path) -> None:
    assert outcome(folder, simulator, signer_user="root")[0] == 78
    assert outcome(folder, simulator, signer_user="no-such-user-here")[0] == 78
    assert outcome(folder, simulator, fetcher_user="0")[0] == 78
    assert outcome(folder, simulator, runtime_dir=str(folder / ("x" * 120)))[0] == 78
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    status, said = outcome(folder, simulator, runtime_dir=str(folder / "open"))
    assert (status, "config.unsafe" in said) == (78, True)


def test_what_is_no_socket_is_not_removed(simulator: Simulator, folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "agent.sock").write_text("precious")
    assert outcome(folder, simulator)[0] == 73
    assert (folder / "run" / "agent.sock").read_text() == "precious"


def test_unknown_names_permit_nobody_and_are_said(simulator: Simulator, folder: Path) -> None:
    with running_daemon(simulator, folder, allow_groups=["no-such-group-here"]) as daemon:
        assert any("no-such-group-here" in note for note in daemon.status()["notes"])


def test_watchdog(simulator: Simulator, folder: Path) -> None:
    config = write_config(folder, simulator)
    process, ear = start(folder, "daemon", "--config", str(config), WATCHDOG_USEC="400000")
    with ear:
        await_ready(ear, process, folder)
        while ear.recv(4096) != b"WATCHDOG=1":
            pass
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0


def test_a_role_by_itself_as_a_unit_would_start_it(simulator: Simulator, folder: Path) -> None:
    config = write_config(folder, simulator)
    running: list[tuple[subprocess.Popen[bytes], socket.socket]] = []
    try:
        for name in ROLES:
            process, ear = start(folder, "daemon", "--role", name, "--config", str(config))
            running.append((process, ear))
            await_ready(ear, process, folder)
        daemon = Daemon(folder, simulator, running[-1][0])
        daemon.verify(daemon.post("/v1/sign", b"x").body, b"x")
    finally:
        for process, ear in reversed(running):
            ear.close()
            process.terminate()
            assert process.wait(STOP_SECONDS) == 0


CRASH = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
os.chdir(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
"""


def dumped(folder: Path, *words: str, ready: socket.socket | None = None) -> bool:
    """Whether the kernel says that a core was written when this process got SIGABRT."""
    argv = [sys.executable, "-c", CRASH, str(folder), *words]
    pid = os.posix_spawn(sys.executable, argv, {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")})
    if ready:
        while b"READY=1" not in ready.recv(4096):
            pass
        os.kill(pid, signal.SIGABRT)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)


@pytest.mark.parametrize("name", ROLES)
def test_no_core(simulator: Simulator, folder: Path, name: str) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith("/"):
        pytest.skip("cores of this machine go elsewhere: the control would leave one there")
    assert dumped(folder, sys.executable, "-c", "import os; os.abort()"), "the control must dump"
    config = write_config(folder, simulator)
    entry = [
        sys.executable,
        "-I",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from agent.cli import main; main()",
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(folder / "notify"))
        ear.settimeout(60)
        assert not dumped(folder, *entry, "daemon", "--role", name, "--config", str(config), ready=ear)


def tas_section(url: str, pin: str, key: Path) -> str:
    return f'[tas]\nurl = "{url}"\npins = ["{pin}"]\napi_key_file = "{key}"\n'


def test_the_services_nonce_goes_into_the_statement(simulator: Simulator, folder: Path) -> None:
    with (
        running_tas(folder / "tas", trust_roots=[simulator.root_pem], endorsements=simulator.export) as service,
        running_daemon(simulator, folder, tas_section(service.url, service.pin, service.api_key_file)) as daemon,
    ):
        bundle = daemon.verify(daemon.post("/v1/sign", b"x").body, b"x").bundle
        state = daemon.status()["service"]
        assert state["state"] == "reachable"
        assert bundle.attachments.statement.tas_nonce == Nonce(state["nonce"]).text


def test_a_service_that_does_not_answer_is_a_reason_not_an_obstacle(simulator: Simulator, folder: Path) -> None:
    (folder / "key").write_text("an-identifier")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{closed.getsockname()[1]}"
        section = tas_section(url, "spki:sha256:" + "00" * 32, folder / "key")
        with running_daemon(simulator, folder, section) as daemon:
            bundle = daemon.verify(daemon.post("/v1/sign", b"x").body, b"x").bundle
            assert bundle.attachments.statement.tas_nonce is None
            state = daemon.status()["service"]
            assert state["state"] == "unreachable"
            assert state["code"].startswith("transport")


def test_installed_where_only_root_may_read(simulator: Simulator, folder: Path) -> None:
    """Nothing of ours is imported after a role became another user: a checkout under /root works."""
    private = folder / "private"
    private.mkdir(mode=0o700)
    for name in ("agent", "snp", "tdx"):
        shutil.copytree(ROOT / name, private / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = write_config(folder, simulator)
    process, ear = start(folder, "daemon", "--config", str(config), cwd=private)
    try:
        with ear:
            await_ready(ear, process, folder)
        daemon = Daemon(folder, simulator, process)
        assert Path(f"/proc/{daemon.role('signer')}/cmdline").read_bytes().count(bytes(private)) == 1
        daemon.verify(daemon.post("/v1/sign?context=%C3%A4", b"x").body, b"x", context="ä")
        daemon.verify(daemon.challenge(nonce="00" * 16, claims={"ä": 1}).body, b"", nonce=bytes(16))
        assert "Traceback" not in daemon.log
    finally:
        process.terminate()
        assert process.wait(STOP_SECONDS) == 0
