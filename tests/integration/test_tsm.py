"""Evidence from the simulator's configfs-tsm tree, with every fault caused for real. Needs root and /dev/fuse."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core import binding
from agent.core.binding import Scope
from agent.core.config import EvidenceConfig
from agent.core.errors import (
    DeadlineExceeded,
    FirmwareBusy,
    FirmwareError,
    GenerationRace,
    NoTee,
    Truncated,
)
from agent.core.model import Endorsements, Evidence, Tee
from agent.deadline import Deadline
from agent.probe import describe, endorsements_of, find_source
from agent.quotelock import QuoteLock
from agent.tsm import Entry, TsmSource
from tests.support.simulator import Simulator, pki_state, running_simulator
from tests.support.waiting import awaited

__all__ = ["pki_state"]
pytestmark = pytest.mark.fuse
_REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = 2.0
"""Seconds for what has to run into its deadline; time enough to come to where it does."""
SCOPE = Scope("tests", "0" * 36)
DATA = binding.collect(SCOPE, b"n" * 32)


@pytest.fixture(scope="module", params=["snp", "tdx"])
def tee(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki_state: Path
) -> Iterator[Simulator]:
    with running_simulator(request.param, tmp_path_factory.mktemp("sim"), pki_state) as simulator:
        yield simulator


@pytest.fixture
def sim(tee: Simulator, tmp_path: Path) -> Iterator[Simulator]:
    yield tee
    tee.clear()
    with QuoteLock(tmp_path / "quote.lock").take(Deadline(60, "what a test gave up on")):
        pass  # it has ended, and cleaned up by itself
    assert not list(tee.mount.glob("tee-agent-quote-*"))
    wait_for_nothing(tee.mount)


def wait_for_nothing(mount: Path) -> None:
    """Probes that a test gave up on hold no lock: they end when the tree answers again. A leak hangs here."""
    awaited(lambda: list(mount.iterdir()), lambda left: not left)


def config(sim: Simulator, folder: Path) -> EvidenceConfig:
    return EvidenceConfig(tsm_root=sim.mount, lock_file=folder / "quote.lock")


def source(sim: Simulator, folder: Path, **how: float) -> TsmSource:
    return TsmSource(sim.mount, sim.tee, QuoteLock(folder / "quote.lock"), chance=lambda: 0.0, **how)


def quote(sim: Simulator, folder: Path, seconds: float = 60.0) -> Evidence:
    return source(sim, folder).quote(DATA, deadline=Deadline(seconds, "test"))


def test_evidence_over_our_data(sim: Simulator, tmp_path: Path) -> None:
    evidence = quote(sim, tmp_path)
    assert evidence.tee is sim.tee
    assert DATA.value in evidence.blob
    assert evidence.provider == {Tee.SNP: "sev_guest", Tee.TDX: "tdx_guest"}[sim.tee]
    assert bool(evidence.auxblob) == (sim.tee is Tee.SNP)


def test_found_by_the_probe(sim: Simulator, tmp_path: Path) -> None:
    kind, found = find_source(config(sim, tmp_path))
    assert kind is sim.tee
    assert DATA.value in found.quote(DATA, deadline=Deadline(60, "test")).blob
    told = describe(config(sim, tmp_path))
    assert (told["tee"], told["problem"]) == (sim.tee.value, None)
    assert told["privlevel_floor"] == (0 if sim.tee is Tee.SNP else None)


def test_endorsements_come_with_snp_evidence(sim: Simulator, tmp_path: Path) -> None:
    evidence = quote(sim, tmp_path)
    assert bool(endorsements_of(evidence).certificates) == (sim.tee is Tee.SNP)
    broken = Evidence(evidence.tee, evidence.blob, b"\xff" * 64)
    assert endorsements_of(broken) == Endorsements()


@pytest.mark.parametrize("fault", ["ebusy:3", "eintr:2", "etimedout:2", "generation-race:2"])
def test_passing_faults_are_waited_out(sim: Simulator, tmp_path: Path, fault: str) -> None:
    sim.fault(fault)
    assert DATA.value in quote(sim, tmp_path).blob


@pytest.mark.parametrize(
    ("fault", "kind", "name"),
    [("ebusy:*", FirmwareBusy, "EBUSY"), ("eintr:*", FirmwareBusy, "EINTR"), ("generation-race:*", GenerationRace, "")],
)
def test_lasting_faults_end_with_the_deadline_and_are_named(
    sim: Simulator, tmp_path: Path, fault: str, kind: type[FirmwareError], name: str
) -> None:
    sim.fault(fault)
    with pytest.raises(DeadlineExceeded) as caught:
        TsmSource(sim.mount, sim.tee, QuoteLock(tmp_path / "quote.lock"), chance=lambda: 0.9).quote(
            DATA, deadline=Deadline(SHORT, "test")
        )
    assert isinstance(caught.value.__cause__, kind)
    assert name in caught.value.message


@pytest.mark.parametrize(("fault", "word"), [("einval", "EINVAL"), ("eio", "EIO")])
def test_final_faults_are_not_retried(sim: Simulator, tmp_path: Path, fault: str, word: str) -> None:
    sim.fault(f"{fault}:1")
    with pytest.raises(FirmwareError, match=word) as caught:
        quote(sim, tmp_path)
    assert not caught.value.retry
    assert caught.value.errno
    quote(sim, tmp_path)


def test_short_evidence(sim: Simulator, tmp_path: Path) -> None:
    sim.fault("short-read:1:500")
    with pytest.raises(Truncated, match="500 bytes"):
        quote(sim, tmp_path)


def test_a_stalled_read_is_left_alone_and_cleans_up_by_itself(sim: Simulator, tmp_path: Path) -> None:
    sim.fault("throttle:1:600")
    quote(sim, tmp_path)
    with pytest.raises(DeadlineExceeded, match="evidence"):
        quote(sim, tmp_path, seconds=SHORT)
    with pytest.raises(DeadlineExceeded, match="is locked"):  # the stalled one still holds the machine-wide lock
        quote(sim, tmp_path, seconds=SHORT)
    sim.clear()
    assert DATA.value in quote(sim, tmp_path).blob


def test_status_does_not_hang_behind_a_stall(sim: Simulator, tmp_path: Path) -> None:
    """The kernel holds back everybody while a report is being made."""
    sim.fault("throttle:1:600")
    quote(sim, tmp_path)
    with pytest.raises(DeadlineExceeded):
        quote(sim, tmp_path, seconds=SHORT)
    short = replace(config(sim, tmp_path), quote_seconds=SHORT)
    assert describe(short)["problem"]["code"] == "firmware.busy"
    with pytest.raises(FirmwareBusy) as caught:
        find_source(short)
    assert caught.value.retry
    sim.clear()
    with QuoteLock(tmp_path / "quote.lock").take(Deadline(60, "the stalled one")):
        pass
    assert describe(config(sim, tmp_path))["problem"] is None


def test_quote_seconds_bound_a_longer_deadline(sim: Simulator, tmp_path: Path) -> None:
    sim.fault("ebusy:*")
    with pytest.raises(DeadlineExceeded, match=r"the last: .*EBUSY"):
        source(sim, tmp_path, seconds=SHORT).quote(DATA, deadline=Deadline(600, "test"))


def test_one_at_a_time_and_each_gets_its_own(sim: Simulator, tmp_path: Path) -> None:
    wanted = [binding.collect(SCOPE, bytes([index]) * 16) for index in range(6)]
    got: dict[int, Evidence] = {}

    def ask(index: int) -> None:
        got[index] = source(sim, tmp_path).quote(wanted[index], deadline=Deadline(60, "test"))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert all(wanted[index].value in got[index].blob for index in range(6))


KILLED = """
import sys
from pathlib import Path
from agent.core.model import Tee
from agent.quotelock import QuoteLock
from agent.deadline import Deadline
from agent.tsm import Entry
root, lock = Path(sys.argv[1]), QuoteLock(Path(sys.argv[2]))
with lock.take(Deadline(60, "lock")), Entry(root) as entry:
    print(entry.path.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed(sim: Simulator, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", KILLED, str(sim.mount), str(tmp_path / "quote.lock")]
    with subprocess.Popen(argv, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        name = child.stdout.readline().decode().strip()
        with pytest.raises(DeadlineExceeded, match="is locked"):
            quote(sim, tmp_path, seconds=0.3)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    assert (sim.mount / name).is_dir()
    quote(sim, tmp_path)
    assert not (sim.mount / name).exists()


def test_an_entry_is_private_and_removed_after_errors(sim: Simulator) -> None:
    entry = Entry(sim.mount)
    with pytest.raises(ZeroDivisionError), entry:
        assert entry.path.is_dir()
        with pytest.raises(FirmwareError, match="EEXIST"), _same_name(entry):
            pass
        raise ZeroDivisionError
    assert not entry.path.exists()


def _same_name(entry: Entry) -> Entry:
    other = Entry(entry.path.parent)
    other.path = entry.path
    return other


def test_privilege_level_comes_from_the_kernel(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("snp", tmp_path, pki_state, "--vmpl-floor", "2") as sim:
        blob = source(sim, tmp_path).quote(DATA, deadline=Deadline(60, "test")).blob
    assert int.from_bytes(blob[0x30:0x34], "little") == 2


def test_a_kernel_without_provider(tmp_path: Path, pki_state: Path) -> None:
    with running_simulator("none", tmp_path, pki_state) as sim:
        with pytest.raises(NoTee) as caught:
            find_source(config(sim, tmp_path))
        assert caught.value.code == "platform.no-tee.provider"
        assert "modprobe" in caught.value.hint
        assert describe(config(sim, tmp_path))["problem"]["code"] == "platform.no-tee.provider"


def test_a_provider_that_goes_away(tmp_path: Path, pki_state: Path) -> None:
    """The mount dies under a source that was found before."""
    with running_simulator("snp", tmp_path, pki_state) as sim:
        _, found = find_source(config(sim, tmp_path))
        sim.stop()
    with pytest.raises(NoTee):
        found.quote(DATA, deadline=Deadline(60, "test"))


def test_the_lock_is_the_files_own(sim: Simulator, tmp_path: Path) -> None:
    quote(sim, tmp_path)
    assert (tmp_path / "quote.lock").stat().st_mode & 0o777 == 0o600
    with (tmp_path / "quote.lock").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="is locked"):
            quote(sim, tmp_path, seconds=0.3)
    quote(sim, tmp_path)
