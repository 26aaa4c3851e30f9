"""Which volumes, in which order, and what leads to a prompt, to a stop, or on: everything around is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from agent.boot import unlocking
from agent.boot.advance import KeyInAdvance
from agent.boot.early import Boot, chosen, command_line, crypttab_names
from agent.boot.kernel import Modules
from agent.boot.network import Network
from agent.boot.report import Outcome, Report
from agent.core.config import Config, VolumeConfig, parse
from agent.core.errors import (
    Conflict,
    Denied,
    DiskError,
    HeaderRefused,
    HeaderTampered,
    NotBound,
    NoTee,
    PlatformError,
    SecretError,
    TeeAgentError,
    TransportError,
)
from agent.core.ports import Deadline as DeadlinePort
from agent.deadline import Deadline
from agent.disk.unlock import Opened

TOML = """
[[volume]]
name = "root"
device = "/dev/vda"
policy_ids = ["p"]
{root}
[[volume]]
name = "data"
device = "/dev/vdb"
policy_ids = ["q"]
fallback = "halt"
"""


class Stage:
    """``fails`` says by volume what attestation ends with; ``typed`` collects what was asked for."""

    def __init__(self) -> None:
        self.fails: dict[str, TeeAgentError] = {}
        self.typed: list[tuple[str, str]] = []
        self.report = Report()

    def run(self, *names: str) -> Report:
        config = parse(TOML.format(root=""), "t")
        volumes = tuple(volume for volume in config.volumes if volume.name in names)
        beside = cast("Modules", None), cast("KeyInAdvance", None)
        boot = Boot(config, volumes, "/dev/mapper/root", Deadline(10, "boot"), Network("none"), *beside)
        unlocking.run(boot, self.report)
        return self.report

    def how(self) -> dict[str, tuple[str, str]]:
        return {volume.name: (volume.how, volume.code) for volume in self.report.volumes}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage()

    def attested(volume: VolumeConfig, secrets: object, deadline: DeadlinePort, outcome: Outcome) -> None:
        if volume.name in made.fails:
            raise made.fails[volume.name]
        outcome.how = "attestation"

    def typed(volume: VolumeConfig, cause: TeeAgentError, deadline: DeadlinePort) -> tuple[Opened, bool]:
        made.typed.append((volume.name, cause.code))
        return Opened("u", 0, ""), False

    monkeypatch.setattr(unlocking, "_attested", attested)
    monkeypatch.setattr(unlocking, "open_typed", typed)
    monkeypatch.setattr(unlocking, "Secrets", lambda *_: None)
    monkeypatch.setattr(Report, "save", lambda _: None)
    yield made


def test_all_volumes_by_attestation(stage: Stage) -> None:
    report = stage.run("root", "data")
    assert stage.how() == {"root": ("attestation", ""), "data": ("attestation", "")}
    assert (report.outcome, stage.typed) == ("unlocked", [])


@pytest.mark.parametrize(
    "error",
    [
        TransportError("x"),
        Denied("x"),
        NoTee("x"),
        SecretError("x"),
        NotBound("x"),
        DiskError("x", code="disk.slot"),
        Conflict("x", code="conflict.policy"),
    ],
    ids=lambda error: error.code,
)
def test_what_a_passphrase_may_mend(stage: Stage, error: TeeAgentError) -> None:
    stage.fails["root"] = error
    assert stage.run("root").outcome == "unlocked"
    assert stage.typed == [("root", error.code)]
    assert stage.how() == {"root": ("passphrase", error.code)}


@pytest.mark.parametrize(
    "error",
    [
        HeaderRefused("x"),
        HeaderTampered("x"),
        Conflict("x", code="conflict.twin"),
        Conflict("x", code="conflict.mapped"),
        DiskError("x", code="disk.missing"),
    ],
    ids=lambda error: error.code,
)
def test_what_speaks_of_an_attack_gets_no_prompt(stage: Stage, error: TeeAgentError) -> None:
    stage.fails["root"] = error
    with pytest.raises(type(error)):
        stage.run("root")
    assert stage.typed == []
    assert stage.how() == {"root": ("", error.code)}


def test_fallback_halt_asks_nobody(stage: Stage) -> None:
    stage.fails["data"] = TransportError("x")
    with pytest.raises(TransportError):
        stage.run("root", "data")
    assert stage.typed == []


def test_the_other_volumes_are_opened_before_somebody_is_asked(stage: Stage) -> None:
    stage.fails["root"] = TransportError("x")
    stage.run("root", "data")
    assert stage.how() == {"root": ("passphrase", "transport"), "data": ("attestation", "")}


def names(config: Config, *crypttab: str) -> list[str]:
    return [volume.name for volume in chosen(config.volumes, frozenset(crypttab))]


def test_volumes_of_the_boot() -> None:
    silent, never, always = (
        parse(TOML.format(root=line), "t") for line in ("", "initramfs = false", "initramfs = true")
    )
    assert names(silent) == []
    assert names(silent, "root", "other") == ["root"]
    assert names(silent, "data", "root") == ["root", "data"]
    assert names(never, "root") == []
    assert names(always) == ["root"]


def test_crypttab_of_the_image(tmp_path: Path) -> None:
    table = tmp_path / "crypttab"
    assert crypttab_names(table) == frozenset()
    table.write_text("# comment\n\nroot UUID=x none luks,initramfs\n\tswap /dev/vdb none luks\n")
    assert crypttab_names(table) == {"root", "swap"}


def test_command_line_is_read_from_the_kernel(tmp_path: Path) -> None:
    line = tmp_path / "cmdline"
    with pytest.raises(PlatformError):
        command_line(Config("t"), line)
    line.write_bytes(b"root=/dev/x ro\n")
    assert command_line(Config("t"), line) == "/dev/x"
    line.write_bytes(b"root=/dev/x ro \xc3\xa4\n")
    with pytest.raises(Denied):
        command_line(Config("t"), line)
