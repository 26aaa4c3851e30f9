"""Measured boots end to end: values that the simulated hardware signs, computed elsewhere than in what is tested."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sevsnpmeasure import guest
from sevsnpmeasure.sev_mode import SevMode

from agent import cli, settings
from agent.admin import measured, nextboot, setup
from agent.admin.evidence import live
from agent.core.config import Config, VolumeConfig
from agent.core.errors import Denied
from agent.core.health import Finding
from agent.core.model import Tee
from agent.core.policy import Policy
from agent.deadline import Deadline
from agent.disk.measured import require
from agent.health import gather
from snp import vmsa
from tdx import pe
from tests.support.daemon import open_folder, running_daemon, write_config
from tests.support.simulator import Simulator, running_simulator
from tests.unit.snp import firmware
from tests.unit.tdx import images

pytestmark = [pytest.mark.fuse, pytest.mark.root]
LINE = "root=/dev/vda1 ro"
KERNEL, OTHER = images.kernel("one"), images.kernel("two")
Capsys = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Guest:
    """A simulated machine and the files it was, or was not, booted from."""

    folder: Path
    simulator: Simulator
    more: str

    @property
    def path(self) -> Path:
        return self.folder / "agent.toml"

    @property
    def config(self) -> Config:
        return settings.load(self.path)

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def tool(self, *words: str) -> int:
        return cli.main([*words, "--config", str(self.path)])

    def findings(self, policy: Policy | None = None) -> dict[str, Finding]:
        return {one.subject: one for one in nextboot.findings(self.config, policy)}

    def state(self) -> tuple[str, str]:
        tee, fields = live(self.config, Deadline(60, "test"))
        found = measured.judged(self.config, tee, fields).measured
        return found.state, found.reason


@contextmanager
def machine(tee: str, state: Path, table: str, files: dict[str, bytes], *options: str) -> Iterator[Guest]:
    """``options`` are the simulator's; FOLDER in ``table`` is where ``files`` lie."""
    with open_folder() as folder, running_simulator(tee, folder, state, *options) as simulator:
        more = "[measured]\n" + table.replace("FOLDER", str(folder))
        made = Guest(folder, simulator, more)
        for name, data in files.items():
            made.write(name, data)
        write_config(folder, simulator, more)
        yield made


def judged(folder: Path, *, kernel: bool) -> str:
    """The launch digest as the sev-snp-measure package has it."""
    files = [str(folder / name) if kernel else "" for name in ("vmlinuz", "initrd.img")]
    cpu = vmsa.SIGNATURES["EPYC-v4"]
    digest: bytes = guest.calc_launch_digest(
        SevMode.SEV_SNP, 2, cpu, str(folder / "OVMF.fd"), *files, LINE if kernel else "", 1
    )
    return digest.hex()


SNP = f"""ovmf = "FOLDER/OVMF.fd"
kernel = "FOLDER/vmlinuz"
initrd = "FOLDER/initrd.img"
cmdline = "{LINE}"
vcpus = 2
vcpu_type = "EPYC-v4"
"""
FILES = {"OVMF.fd": firmware.image(), "vmlinuz": KERNEL, "initrd.img": b"initrd" * 100}
TDX = f"""kernel = "FOLDER/vmlinuz"
initrd = "FOLDER/initrd.img"
cmdline = "{LINE}"
event_log = "FOLDER/log.json"
"""


def snp_guest(state: Path, folder: Path, *, kernel: bool = True) -> Any:
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return machine("snp", state, SNP, FILES, "--measurement", judged(folder, kernel=kernel))


def tdx_guest(state: Path, events: Any = None) -> Any:
    options = images.ucs2(LINE + " initrd=initrd")
    log = events or images.direct_boot(pe.authenticode(pe.parse(KERNEL)), FILES["initrd.img"], options)
    registers = [word for index, value in images.rtmrs(log).items() for word in (f"--rtmr{index}", value.hex())]
    return machine("tdx", state, TDX, {**FILES, "log.json": as_json(log)}, *registers)


def as_json(events: Any) -> bytes:
    return json.dumps(
        [
            {"imr": one.register, "event_type": one.kind, "digest": one.digest.hex(), "event_payload": one.data.hex()}
            for one in events
        ]
    ).encode()


@pytest.fixture(params=["snp", "tdx"])
def booted(request: pytest.FixtureRequest, pki_state: Path, tmp_path: Path) -> Iterator[Guest]:
    """A machine whose kernel, initramfs and command line the hardware measured."""
    made = snp_guest(pki_state, tmp_path) if request.param == "snp" else tdx_guest(pki_state)
    with made as found:
        yield found


def test_a_measured_boot_is_known_as_one(booted: Guest) -> None:
    state, reason = booted.state()
    assert state == "yes", reason
    found = booted.findings()
    assert (found["initramfs measured"].state, found["next boot"].state) == ("ok", "ok")
    assert found["next boot"].text == "will measure what this one did"
    require(measured.looked(booted.config).measured, unmeasured_boot=False)
    # Without a daemon nobody has evidence at hand, and status makes none.
    assert gather(booted.config, datetime.now(UTC))["initramfs"]["state"] == "unknown"
    with running_daemon(booted.simulator, booted.folder, booted.more) as daemon:
        assert daemon.post("/v1/sign", b"waits for the first key").status == 200
        assert gather(settings.load(daemon.config), datetime.now(UTC))["initramfs"]["state"] == "yes"


@pytest.mark.parametrize("name", ["vmlinuz", "initrd.img"])
def test_the_next_boot_is_approved_before_the_reboot(booted: Guest, name: str, capsys: Capsys) -> None:
    policy, tdx = booted.folder / "policy.json", booted.simulator.tee is Tee.TDX
    assert booted.tool("policy", "draft", "--key-id", "disk", "-o", str(policy)) == 0
    assert "will measure the same" in capsys.readouterr().err
    old = Policy.from_bytes(policy.read_bytes())
    running = [
        word for kind in ("kernel", "initrd") for word in (f"--running-{kind}", str(booted.folder / f"old-{kind}"))
    ]
    booted.write("old-kernel", KERNEL)
    booted.write("old-initrd", FILES["initrd.img"])
    booted.write("old-line", LINE.encode() + b"\n")
    booted.write(name, OTHER if name == "vmlinuz" else b"another initrd")
    words = [*running, "--running-cmdline-file", str(booted.folder / "old-line")] if tdx else []
    words += [] if tdx else ["--ovmf", str(booted.folder / "OVMF.fd")]
    assert booted.tool("policy", "predict", "--json", "--policy", str(policy), *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["policy"] == {"policy_id": "disk", "file": str(policy), "changed": True}
    if not tdx:
        assert told["workload"]["measurement"] == judged(booted.folder, kernel=True)
    new = Policy.from_bytes(policy.read_bytes())
    tee, fields = live(booted.config, Deadline(60, "test"))
    assert nextboot.refusals(old, tee, fields, told["workload"])
    assert nextboot.refusals(new, tee, fields, told["workload"]) == []
    assert nextboot.refusals(new, tee, fields, {}) == []
    # Once more changes nothing; after the (same) boot the set is cut down to what runs.
    assert booted.tool("policy", "predict", "--policy", str(policy), *words) == 0
    assert "accepts it already" in capsys.readouterr().err
    assert booted.tool("policy", "tighten", str(policy)) == 0
    kept = Policy.from_bytes(policy.read_bytes())
    assert nextboot.refusals(kept, tee, fields, told["workload"])
    assert nextboot.refusals(kept, tee, fields, {}) == []


def test_preflight_asks_the_policy(pki_state: Path) -> None:
    with tdx_guest(pki_state) as booted:
        tee, fields = live(booted.config, Deadline(60, "test"))
        names = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
        same = {name: bytes.fromhex(fields[name]) for name in names}
        assert booted.findings(Policy.pinning(tee, same))["next boot"].state == "ok"
        refused = booted.findings(Policy.pinning(tee, {**same, "rtmr2": bytes(48)}))["next boot"]
        assert (refused.state, "refuses it" in refused.text) == ("PROBLEM", True)


def test_an_initramfs_made_anew_is_not_the_one_that_runs_and_can_be_predicted(pki_state: Path, capsys: Capsys) -> None:
    with tdx_guest(pki_state) as booted:
        booted.write("initrd.img", b"made anew")
        state, reason = booted.state()
        assert (state, "has an initramfs" in reason) == ("unknown", True)
        found = booted.findings()["next boot"]
        assert (found.state, "rtmr2" in found.text, "rtmr1" in found.text) == ("note", True, False)
        assert booted.tool("policy", "draft", "--key-id", "disk") == 0
        told = capsys.readouterr()
        assert "next boot is predicted" in told.err
        options = images.ucs2(LINE + " initrd=initrd")
        then = images.direct_boot(pe.authenticode(pe.parse(KERNEL)), b"made anew", options)
        assert images.rtmrs(then)[2].hex() in told.out


def test_a_firmware_alone_is_told_from_a_measured_boot(pki_state: Path, tmp_path: Path) -> None:
    with snp_guest(pki_state, tmp_path, kernel=False) as booted:
        state, reason = booted.state()
        assert (state, "alone" in reason) == ("no", True)
        with pytest.raises(Denied, match="initramfs measured: no"):
            require(measured.looked(booted.config).measured, unmeasured_boot=False)
        assert booted.findings()["next boot"].text == "will measure what this one did"


def unknown(make: Callable[[Guest], object], word: str, found: Guest) -> None:
    make(found)
    state, reason = found.state()
    assert (state, word in reason) == ("unknown", True), reason
    assert found.findings()["next boot"].state == "note"


def test_what_can_not_be_known_is_unknown(pki_state: Path, tmp_path: Path) -> None:
    with snp_guest(pki_state, tmp_path) as booted:
        unknown(lambda one: one.write("initrd.img", b"x"), "neither", booted)
        unknown(lambda one: one.write("OVMF.fd", b"x"), "whole number of pages", booted)
        unknown(lambda one: (one.folder / "OVMF.fd").unlink(), "can't be read", booted)
        unknown(lambda one: one.path.write_text(one.path.read_text().replace("ovmf =", "uki =")), "not named", booted)


def test_a_log_that_is_not_of_this_boot(pki_state: Path) -> None:
    with tdx_guest(pki_state) as booted:
        other = images.direct_boot(bytes(48), b"initrd", b"")
        unknown(lambda one: one.write("log.json", as_json(other)), "does not replay", booted)
        unknown(lambda one: one.write("log.json", b"[]"), "does not replay", booted)
        unknown(lambda one: (one.folder / "log.json").unlink(), "can't be read", booted)


def test_a_boot_without_an_initramfs_in_its_log(pki_state: Path) -> None:
    bare = images.log([*images.FIRMWARE, images.image_event(bytes(48)), *images.LEAVING])
    with tdx_guest(pki_state, bare) as booted:
        state, reason = booted.state()
        assert (state, "no initramfs" in reason) == ("no", True)


def test_a_unified_image_is_known_and_predicted(pki_state: Path) -> None:
    one = {".osrel": b"ID=a\n", ".cmdline": LINE.encode(), ".initrd": b"initrd", ".linux": KERNEL}
    uki = images.pe(one)
    log = images.unified_boot(pe.authenticode(pe.parse(uki)), one, images.ucs2(LINE), None)
    with tdx_guest(pki_state, log) as booted:
        booted.write("linux.efi", uki)
        text = booted.path.read_text().replace('kernel = "', 'uki = "').replace("vmlinuz", "linux.efi")
        booted.path.write_text(text)
        state, reason = booted.state()
        assert (state, "linux.efi" in reason) == ("yes", True), reason
        assert booted.findings()["next boot"].state == "ok"


def test_no_tee_is_no_obstacle_to_an_offline_prediction(tmp_path: Path, capsys: Capsys) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    words = ["--ovmf", str(tmp_path / "OVMF.fd"), "--vcpus", "2", "--vcpu-type", "EPYC-v4"]
    config = tmp_path / "empty.toml"
    config.write_text("")
    base = ["policy", "predict", "--quiet", "--config", str(config)]
    assert cli.main([*base, *words]) == 0
    assert capsys.readouterr().out == f"measurement  {judged(tmp_path, kernel=False)}\n"
    files = ["--kernel", str(tmp_path / "vmlinuz"), "--initrd", str(tmp_path / "initrd.img"), "--append", LINE]
    assert cli.main([*base, *words, *files]) == 0
    assert capsys.readouterr().out == f"measurement  {judged(tmp_path, kernel=True)}\n"
    for wrong in (words[:4], [*words, *files[2:]], [*words[:5], "EPYC-Nowhere"], [*words, "--guest-features", "x"]):
        assert cli.main([*base, *wrong]) == 64


def test_setup_says_how_to_bind(booted: Guest) -> None:
    config = replace(booted.config, volumes=(VolumeConfig("data", "/dev/vdb", ("p",)),))
    assert setup.binding(config) == (["tee-agent disk bind data"], "")
    booted.write("initrd.img", b"other")
    commands, why = setup.binding(config)
    assert commands == ["tee-agent disk bind data --unmeasured-boot"]
    assert "initramfs measured: unknown" in why
