"""Plays one scenario: plugs the machine together, lets it run, and compares what came with what must come."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.tas import RunningTas
from tests.vm import clones, cpio, image, qemu, tree
from tests.vm.command import REPOSITORY, VM, HarnessError, run
from tests.vm.emulator import emulator
from tests.vm.place import place
from tests.vm.qemu import Disk, Ended, Hardware, Machine
from tests.vm.scenarios import Scenario
from tests.vm.world import SIMULATED, World, policy, world

FAILED = VM / "failed"
"""Console logs of failed boots, by scenario."""


@dataclass(slots=True)
class Played:
    """``problems`` is empty when all was as it must be. ``report`` is the judge's, ``{}`` without one."""

    name: str
    ended: Ended
    report: dict[str, Any]
    decisions: list[dict[str, Any]]
    problems: list[str] = field(default_factory=list)


class Person:
    """Somebody at the console, who waits for each text and types the answer once."""

    def __init__(self, types: tuple[tuple[str, str], ...]) -> None:
        self._left = list(types)
        self._from = 0

    def watch(self, machine: Machine) -> None:
        while self._left:
            text, answer = self._left[0]
            end = qemu.seen(machine.console, text, self._from)
            if end < 0:
                return
            self._from = end
            self._left.pop(0)
            machine.say(answer.replace("PASSPHRASE", image.PASSPHRASE))

    @property
    def waits_for(self) -> str:
        """What never came; empty when all was typed."""
        return self._left[0][0] if self._left else ""


def play(name: str, scenario: Scenario, *, echo: bool = False) -> Played:
    """Boot it in a place of its own. Raises HarnessError where the harness failed, not the scenario.

    An emulator that crashed says nothing about the guest: the machine is booted once more, and that is told.
    """
    try:
        return _play(name, scenario, echo=echo)
    except qemu.EmulatorCrashed as error:
        sys.stderr.write(f"{name}: once more: {error}\n")
        return _play(name, scenario, echo=echo)


def _play(name: str, scenario: Scenario, *, echo: bool) -> Played:
    here, program = world(scenario.flavour), emulator()
    with place() as folder:
        with _service(here, scenario, folder) as service:
            person = Person(scenario.types)
            with qemu.started(program, _hardware(here, scenario, folder), folder) as machine:
                deadline = time.monotonic() + scenario.seconds
                ended = machine.run(deadline, person.watch, echo=sys.stdout.fileno() if echo else None)
            events = service.log() if service else []
        report = ended.reports[0] if ended.reports else {}
        played = Played(name, ended, report, [e for e in events if e["event"] == "decision"])
        played.problems = _problems(scenario, played, person, folder)
        if played.problems:
            FAILED.mkdir(exist_ok=True)
            shutil.copy(folder / "console.log", FAILED / f"{name}.log")
    return played


def shell(scenario: Scenario) -> None:
    """The same machine with this terminal as its console, and nobody to judge it or switch it off."""
    here, program = world(scenario.flavour), emulator()
    with place() as folder, _service(here, scenario, folder), _raw_terminal() as terminal:
        hardware = _hardware(here, scenario, folder, probes=("none",))
        with qemu.started(program, hardware, folder) as machine:
            machine.run(math.inf, lambda _: None, echo=sys.stdout.fileno(), keys=terminal)


@contextmanager
def _raw_terminal() -> Iterator[int]:
    """Standard input, every key as it is pressed."""
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        raise HarnessError("--shell needs a terminal")
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _service(here: World, scenario: Scenario, folder: Path) -> Iterator[RunningTas | None]:
    if scenario.service == "down" or scenario.flavour != "agent":
        yield None
        return
    tee = "tdx" if scenario.tee == "tdx" else "snp"
    with here.service(tee, folder, wrong_measurement=scenario.service == "refusing") as service:
        yield service


def _hardware(here: World, scenario: Scenario, folder: Path, probes: tuple[str, ...] = ()) -> Hardware:
    initrd = here.file("initrd.img")
    if scenario.config:
        initrd = folder / "initrd.img"
        text = here.config(scenario.config).encode()
        cpio.added(here.file("initrd.img"), {"etc/tee-agent/tee-agent.toml": text}, initrd)
    words = [f"tee={scenario.tee}", f"interface={scenario.interface}"]
    words += [f"probes={','.join(probes or scenario.probes)}"]
    words += [f"sim:{word}" for word in (*SIMULATED.get(scenario.tee, ()), *scenario.simulator)]
    return Hardware(
        kernel=here.file("vmlinuz"),
        initrd=initrd,
        cmdline=scenario.cmdline,
        disks=(*_disks(here, scenario, folder), Disk(here.file("simulator.img"), "tee-simulator")),
        product=" ".join(words),
        isolated=scenario.service == "cut off",
    )


def _disks(here: World, scenario: Scenario, folder: Path) -> tuple[Disk, ...]:
    root = Disk(here.file("disk.img"), "root-disk")
    other = folder / "other.img"
    if scenario.disks == "null cipher":
        return (Disk(clones.null_cipher(root.image, other), root.serial),)
    if scenario.disks == "filesystem clone":
        return (Disk(clones.filesystem_clone(tree.base(), other), "clone"), root)
    if scenario.disks == "luks clone":
        return (root, Disk(clones.luks_clone(root.image, other), "clone"))
    return (root,)


def _problems(scenario: Scenario, played: Played, person: Person, folder: Path) -> list[str]:
    ended, found = played.ended, []
    if person.waits_for:
        found.append(f"the console never showed {person.waits_for!r}")
    if ended.why not in scenario.ends:
        found.append(f"it ended by {ended.why} after {ended.seconds:.0f} s, not by {' or '.join(scenario.ends)}")
    found += [f"the console did not show {word!r}" for word in scenario.shows if qemu.seen(ended.console, word) < 0]
    found += [f"the console showed {word!r}" for word in scenario.never_shows if qemu.seen(ended.console, word) >= 0]
    if bool(played.report) != scenario.judged:
        found.append("the guest's judge did not report" if scenario.judged else "the system came up, and must not")
    released = any(event["verdict"] == "released" for event in played.decisions)
    if scenario.released is not None and released != scenario.released:
        found.append(f"the secret was {'' if released else 'not '}released: {played.decisions}")
    found += [f"the judge's {name}: {facts['error']}" for name, facts in played.report.items() if "error" in facts]
    if played.report:
        found += _wrong_facts(scenario, played.report)
    if scenario.verifies_bundle and not found:
        found += _bundle_problems(scenario, played.report["sign"], folder)
    return found


def _wrong_facts(scenario: Scenario, report: dict[str, Any]) -> list[str]:
    found = []
    for path, wanted in scenario.facts.items():
        have = _at(report, path)
        if not (wanted.fullmatch(str(have)) if isinstance(wanted, re.Pattern) else have == wanted):
            found.append(f"{path} is {have!r}, not {wanted!r}")
    return found


def _at(report: Any, path: str) -> Any:
    """What is at a dotted path, list items by number; None where the path ends early."""
    for step in path.split("."):
        if isinstance(report, list):
            report = dict(enumerate(report)).get(int(step))
        else:
            report = report.get(step) if isinstance(report, dict) else None
    return report


def _bundle_problems(scenario: Scenario, facts: dict[str, Any], folder: Path) -> list[str]:
    """The bundle that came out of the guest, judged outside by the command a relying party would use."""
    for name in ("bundle", "payload"):
        (folder / name).write_bytes(base64.b64decode(facts[name]))
    (folder / "policy.json").write_text(json.dumps(policy(scenario.tee)))
    root = folder / "endorsements" / scenario.tee / "root.pem"
    words = ("verify", folder / "bundle", "--payload", folder / "payload", "--policy", folder / "policy.json")
    try:
        run(REPOSITORY / ".venv/bin/tee-agent", *words, "--trust-root", root)
    except HarnessError as error:
        return [f"the bundle does not verify outside: {error}"]
    return []
