"""`tee-agent endorsements` as a process: two at once, killed at any write, offline unless told, as the folder's owner."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sim.keys import pem
from sim.psp import SecureProcessor
from tests.support.simulator import Simulator, machine
from tests.support.vendor import Reply, Vendor, running_vendor
from tests.support.waiting import awaited

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
_KILLED_AT_WRITE = """
import os, signal, sys
from agent.cli import main
real, left = os.fsync, [int(sys.argv[1])]
def fsync(fd):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(fd)
os.fsync = fsync
sys.exit(main(sys.argv[2:]))
"""


@dataclass
class World:
    """A vendor for one machine, its evidence in a file, and a folder to fetch into."""

    vendor: Vendor
    folder: Path
    evidence: Path
    root: Path

    def words(self, *more: str) -> list[str]:
        who = ["--kds-url", self.vendor.url, "--pccs-url", self.vendor.url, "--ca-file", str(self.vendor.authority)]
        what = ["--evidence", str(self.evidence), "--trust-root", str(self.root), "--out", str(self.folder)]
        return ["endorsements", "fetch", "--json", *what, *who, *more]

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


def start(*words: str, code: str = "") -> subprocess.Popen[str]:
    argv = [sys.executable, *(("-c", code) if code else ("-m", "agent.cli")), *words]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*words: str, code: str = "") -> tuple[int, Any, str]:
    """Exit status, JSON or text of standard output, standard error."""
    process = start(*words, code=code)
    out, err = process.communicate(timeout=SECONDS)
    try:
        return process.returncode, json.loads(out), err
    except ValueError:
        return process.returncode, out, err


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running_vendor(tmp_path) as running:
        yield running


@pytest.fixture(params=["snp", "tdx"])
def world(request: pytest.FixtureRequest, vendor: Vendor, pki_state: Path, tmp_path: Path) -> World:
    hardware = machine(request.param, pki_state)
    getattr(vendor, "amd" if request.param == "snp" else "intel")(hardware)
    evidence, root = tmp_path / "evidence.bin", tmp_path / "root.pem"
    evidence.write_bytes(hardware.report(bytes(64), 0).outblob)
    root.write_bytes(pem(hardware.root))
    return World(vendor, tmp_path / "cache", evidence, root)


def test_fetched_then_verified_then_listed(world: World) -> None:
    status, facts, err = run(*world.words())
    assert (status, facts["complete"], facts["error"], err) == (0, True, None, "")
    assert {row["action"] for row in facts["outcomes"]} == {"fetched"}
    trust = ["--trust-root", str(world.root), "--collateral", str(world.folder)]
    status, verdict, _ = run("evidence", "verify", str(world.evidence), *trust, "--json")
    assert (status, verdict["valid"], verdict["tcb_status"] in ("UpToDate", "n/a")) == (0, True, True)
    status, listed, _ = run("endorsements", "list", "--out", str(world.folder), "--json")
    assert {row["state"] for row in listed["statements"]} == {"good"}
    status, text, _ = run("endorsements", "list", "--out", str(world.folder))
    assert status == 0
    assert "CRL" in text
    assert run("endorsements", "prune", "--out", str(world.folder), "--json")[1]["pruned"] == []
    assert len(run("endorsements", "prune", "--keep-days", "0", "--out", str(world.folder), "--json")[1]["pruned"]) > 2


def test_two_at_once_ask_once(world: World) -> None:
    both = [start(*world.words()) for _ in range(2)]
    outs = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert len(world.vendor.requests) == len(set(world.vendor.requests))
    assert sorted({row["action"] for row in json.loads(out)["outcomes"]} == {"fresh"} for out, _ in outs) == [
        False,
        True,
    ]


def test_killed_at_any_write_leaves_whole_files(world: World, tmp_path: Path) -> None:
    assert run(*world.words("--out", str(tmp_path / "good")))[0] == 0
    good = World(world.vendor, tmp_path / "good", world.evidence, world.root).files()
    killed = 0
    for write in range(1, 60):
        status, _, err = run(str(write), *world.words(), code=_KILLED_AT_WRITE)
        assert status in (0, -9), err
        # Every file is whole: drafts have other names, and no reader takes them.
        assert world.files().items() <= good.items()
        if status == 0:
            break
        killed += 1
        verified = ["evidence", "verify", str(world.evidence), "--collateral", str(world.folder), "--quiet"]
        assert run(*verified, "--trust-root", str(world.root))[0] in (0, 65)
    assert killed > 0
    assert run(*world.words())[0] == 0
    assert world.files() == good
    assert not list(world.folder.rglob("*.part"))


def test_killed_while_it_waits_lets_the_next_one_in(world: World) -> None:
    world.vendor.fault("/", "stall")
    process = start(*world.words())
    awaited(lambda: world.vendor.requests)
    process.kill()
    process.communicate(timeout=SECONDS)
    assert world.files() == {}
    assert run(*world.words())[0] == 0


def test_what_does_not_verify_is_an_error_and_no_file(world: World) -> None:
    words = world.words()
    del words[words.index("--trust-root") : words.index("--trust-root") + 2]
    status, facts, _ = run(*words)
    assert status == 65
    assert facts["error"]["code"] == "verify.untrusted-root"
    assert "trusted" in facts["error"]["message"]
    assert world.files() == {}


def test_statuses_say_whether_to_try_again(world: World) -> None:
    world.vendor.fault("/", "gone", count=50)
    assert run(*world.words())[0] == 76
    world.vendor.faults.clear()
    world.vendor.fault("/", "busy", count=50, retry_after="3000")
    status, facts, _ = run(*world.words("--seconds", "20"))
    assert (status, facts["complete"]) == (75, False)
    asked = len(world.vendor.requests)
    # Another process, at once: the service is left alone.
    assert run(*world.words("--seconds", "20"))[0] == 75
    assert len(world.vendor.requests) == asked


@pytest.mark.parametrize(
    "words",
    [
        ("--kds-url", "http://kds.example"),
        ("--pcs-url", "ftp://127.0.0.1"),
        ("--proxy", "http://user:secret@proxy:3128"),
        ("--proxy", "proxy"),
        ("--seconds", "0"),
        ("--renew",),
    ],
)
def test_wrong_usage(world: World, words: tuple[str, ...]) -> None:
    status, facts, _ = run(*world.words(), *words)
    assert status == 64
    assert "secret" not in json.dumps(facts)
    assert world.vendor.requests == []
    assert world.files() == {}


def test_the_timer_asks_nobody_unless_the_configuration_says_so(world: World, tmp_path: Path) -> None:
    config = tmp_path / "tee-agent.toml"
    asked = ["--scheduled", "--config", str(config)]
    for text in ("", "[endorsements]\nfetch = false\n"):
        config.write_text(text)
        assert run(*world.words(*asked))[0] == 0
        assert run("endorsements", "note", str(tmp_path / "note"), *asked)[0] == 0
    assert world.vendor.requests == []
    assert not (tmp_path / "note").exists()
    config.write_text("[endorsements]\nfetch = true\n")
    assert run(*world.words(*asked))[0] == 0
    assert world.vendor.requests


def test_the_configuration_says_whom_to_ask(world: World, tmp_path: Path) -> None:
    config = tmp_path / "tee-agent.toml"
    table = {"kds_url": world.vendor.url, "pcs_url": world.vendor.url, "ca_file": str(world.vendor.authority)}
    lines = ["[endorsements]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    config.write_text("\n".join([*lines, "[evidence]", f'endorsements = "{world.folder}"', ""]))
    more = ["--evidence", str(world.evidence), "--trust-root", str(world.root), "--config", str(config)]
    assert run("endorsements", "fetch", *more)[0] == 0
    assert world.files()
    # And later, without any evidence.
    world.vendor.requests.clear()
    assert run("endorsements", "fetch", "--renew", "--force", *more[2:])[0] == 0
    assert world.vendor.requests


def test_an_authority_s_file_that_is_not_there(world: World, tmp_path: Path) -> None:
    status, facts, _ = run(*world.words("--ca-file", str(tmp_path / "none.pem")))
    assert (status, facts["error"]["code"]) == (78, "config.unreadable")
    (tmp_path / "none.pem").write_text("no certificate")
    assert run(*world.words("--ca-file", str(tmp_path / "none.pem")))[0] == 78
    assert world.vendor.requests == []


@pytest.mark.root
def test_root_becomes_the_folder_s_owner(world: World) -> None:
    with tempfile.TemporaryDirectory() as name:
        open_to_all = Path(name)
        open_to_all.chmod(0o755)
        authority = open_to_all / "ca.pem"
        authority.write_bytes(world.vendor.authority.read_bytes())
        world.vendor.authority = authority
        world.folder = open_to_all / "cache"
        world.folder.mkdir()
        os.chown(world.folder, 64_123, 64_124)
        # What a stranger put there is not followed as root.
        (world.folder / "snp").symlink_to("/root")
        (world.folder / "tdx").symlink_to("/root")
        assert run(*world.words())[0] == 69
        for vendor in ("snp", "tdx"):
            (world.folder / vendor).unlink()
        assert run(*world.words())[0] == 0
        for path in world.folder.rglob("*"):
            info = path.lstat()
            assert (info.st_uid, info.st_gid) == (64_123, 64_124), path
            assert stat.S_IMODE(info.st_mode) & 0o022 == 0


@pytest.mark.fuse
def test_for_this_machine(vendor: Vendor, simulator: Simulator, pki_state: Path, tmp_path: Path) -> None:
    chip = machine("snp", pki_state)
    assert isinstance(chip, SecureProcessor)
    vendor.amd(chip)
    config = tmp_path / "tee-agent.toml"
    config.write_text(
        f'[evidence]\ntsm_root = "{simulator.mount}"\nlock_file = "{tmp_path}/lock"\n'
        f'endorsements = "{tmp_path}/cache"\n[daemon]\nruntime_dir = "{tmp_path}/run"\n'
    )
    who = ["--kds-url", vendor.url, "--ca-file", str(vendor.authority), "--trust-root", str(simulator.root_pem)]
    status, facts, err = run("endorsements", "fetch", "--json", "--config", str(config), *who)
    assert (status, facts["complete"]) == (0, True), err
    # The host handed the VCEK over with the report: nobody was asked for it.
    assert not [path for path in vendor.requests if "SPL=" in path]
    assert run("endorsements", "note", str(tmp_path / "note"), "--config", str(config))[0] == 0
    trust = ["--trust-root", str(simulator.root_pem), "--collateral", str(tmp_path / "cache")]
    assert run("evidence", "verify", str(tmp_path / "note"), *trust)[0] == 0


def test_an_unknown_answer_of_the_right_kind(world: World) -> None:
    """A service that answers every question with the same good statement."""
    path = next(path for path in world.vendor.replies if "crl" in path)
    good = world.vendor.replies[path]
    for other in list(world.vendor.replies):
        world.vendor.replies[other] = Reply(good.body, headers=good.headers)
    status, facts, _ = run(*world.words())
    assert status == 65
    assert facts["complete"] is False
