"""`tee-agent evidence collect` on simulated TEEs, directly and through the daemon, and what a verifier makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core import binding
from agent.core.binding import Scope
from agent.core.model import Tee
from tests.support.daemon import CLOSED, ROOT, STRANGER, as_user, open_folder, running_daemon, write_config
from tests.support.simulator import Simulator, running_simulator

pytestmark = [pytest.mark.fuse, pytest.mark.root]
AGENT = [sys.executable, "-W", "error", "-m", "agent.cli"]
NONCE = "00112233445566778899aabbccddeeff"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture(scope="module", params=["snp", "tdx"])
def simulator(request: pytest.FixtureRequest, pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator(request.param, folder, pki_state) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


def collect(config: Path, out: Path, *words: str, nonce: str = NONCE) -> subprocess.CompletedProcess[str]:
    argv = [*AGENT, "evidence", "collect", "--nonce", nonce, "--out", str(out), *words, "--config", str(config)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def verify(simulator: Simulator, capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> tuple[int, Any]:
    trust = ["--collateral", str(simulator.export), "--trust-root", str(simulator.root_pem)]
    status = main(["evidence", "verify", str(out), *trust, *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def named(audience: str = "") -> list[str]:
    return ["--nonce", NONCE, "--boot-id", BOOT_ID, *(["--audience", audience] if audience else [])]


def test_what_is_collected_verifies(simulator: Simulator, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, table = folder / "evidence.bin", folder / "table.bin"
    done = collect(write_config(folder, simulator), out, "--auxblob", str(table), "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    wanted = binding.collect(Scope("", BOOT_ID), bytes.fromhex(NONCE)).value.hex()
    is_snp = simulator.tee is Tee.SNP
    assert document == {
        "tee": simulator.tee.value,
        "version": document["version"],
        "purpose": "collect",
        "nonce": NONCE,
        "boot_id": BOOT_ID,
        "audience": "",
        "report_data": wanted,
        "file": str(out),
        "bytes": out.stat().st_size,
        "auxblob": str(table) if is_snp else None,
        "provider": document["provider"],
    }
    assert table.exists() == is_snp
    assert ("no certificates on" in done.stderr) != is_snp
    assert out.stat().st_mode & 0o777 == 0o644
    status, found = verify(simulator, capsys, out, *named())
    assert (status, found["fields"]["report_data"]) == (0, wanted)
    assert not [line for line in found["not_checked"] if line.startswith("REPORT_DATA")]
    assert {check["name"]: check["ok"] for check in found["checks"]}["REPORT_DATA"] is True


def test_text_is_what_the_verifier_needs(simulator: Simulator, folder: Path) -> None:
    done = collect(write_config(folder, simulator, audience="web"), folder / "e")
    assert done.returncode == 0, done.stderr
    assert f"\nnonce: {NONCE}\nboot id: {BOOT_ID}\naudience: web\nREPORT_DATA: " in done.stdout
    assert collect(write_config(folder, simulator), folder / "e", "--quiet").stdout == ""


def test_other_nonce_boot_or_audience(simulator: Simulator, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "e"
    assert collect(write_config(folder, simulator, audience="web"), out).returncode == 0
    assert verify(simulator, capsys, out, *named("web"))[0] == 0
    other_boot = "0" + BOOT_ID[1:] if BOOT_ID[0] != "0" else "1" + BOOT_ID[1:]
    for words in (
        named(),
        named("other"),
        ["--nonce", NONCE[:-2] + "00", "--boot-id", BOOT_ID, "--audience", "web"],
        ["--nonce", NONCE + "00", "--boot-id", BOOT_ID, "--audience", "web"],
        ["--nonce", NONCE, "--boot-id", other_boot, "--audience", "web"],
    ):
        status, found = verify(simulator, capsys, out, *words)
        assert (status, found["valid"], found["signature_valid"]) == (65, False, True)
        assert found["error"]["code"] == "verify.binding"
    status, found = verify(simulator, capsys, out)
    assert status == 0
    assert [line for line in found["not_checked"] if line.startswith("REPORT_DATA")]


@pytest.mark.skipif(CLOSED, reason="other users can't read the source, as below /root")
def test_through_the_daemon_and_for_root_only(
    simulator: Simulator, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_to_all = folder / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with running_daemon(simulator, folder, audience="rp") as daemon:
        out, theirs = folder / "e", open_to_all / "e"
        done = collect(daemon.config, out)
        assert done.returncode == 0, done.stderr
        assert verify(simulator, capsys, out, *named("rp"))[0] == 0
        argv = [*as_user(STRANGER), *AGENT, "evidence", "collect", "--nonce", NONCE, "--out", str(theirs)]
        words = [*argv, "--config", str(daemon.config)]
        stranger = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert stranger.returncode in (69, 75, 77), stranger.stderr
        assert not theirs.exists()


@pytest.mark.parametrize("nonce", ["", "00" * 15, "00" * 65, "zz" * 16, "0" * 33])
def test_nonces_of_another_form(simulator: Simulator, folder: Path, nonce: str) -> None:
    done = collect(write_config(folder, simulator), folder / "e", nonce=nonce)
    assert (done.returncode, done.stdout) == (64, "")
    assert not (folder / "e").exists()


def test_a_place_that_can_t_be_written(simulator: Simulator, folder: Path) -> None:
    done = collect(write_config(folder, simulator), folder / "absent" / "e")
    assert done.returncode == 64
    assert "[usage.output]" in done.stderr
