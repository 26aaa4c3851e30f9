"""Follows docs/quickstart.md with a fresh encrypted VM: first boot by passphrase, then as the guide says, then alone.

Somebody at the VM's console logs in and types what the guide has for ``vm#``; what it has for ``tas#`` runs on this
machine, against a real service. Both wait for each other at a desk: HTTP on loopback, which the guest reaches. What
differs from a reader's two machines stands in ``Scene.table`` and in the shims below, and nowhere else:

- names, addresses, UUID and the vendor's URLs are the test's; the service trusts the simulator's root in addition;
- scp is a shim that copies through the desk, `tas` has ``--state`` added, the checkout is this one (make only says
  what it would do: `make vm` has set up and built already);
- the guest's packages are all there but ours; QEMU boots a kernel and initramfs given as files, so the guest hands its
  new initramfs over before it reboots, where otherwise a boot loader would read it from /boot.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sim.demo_world import free_port
from tests.vm import guide, image, qemu
from tests.vm.command import REPOSITORY, HarnessError, run
from tests.vm.desk import Desk
from tests.vm.emulator import emulator
from tests.vm.place import place
from tests.vm.play import FAILED, Person, _at
from tests.vm.qemu import Disk, Ended, Hardware, Machine
from tests.vm.scenarios import CMDLINE, OPENED
from tests.vm.world import DEBS, SIMULATED, World, _export, debs, world

FIRST_SECONDS, SECOND_SECONDS = 1200.0, 420.0
STALE = "tee-agent config check"
"""The one command that the guide lets fail: it says that the initramfs is stale."""
FIRST_BOOT_LAST = "reboot"
AFTERWARDS = "tee-agent status"
ALONE = {
    **OPENED,
    "boot.report.volumes.0.how": "attestation",
    "boot.report.volumes.0.code": "",
    "boot.report.volumes.0.policy_id": "web-a",
    "login.failed": [],
    "status.exit": 0,
    "status.said.healthy": True,
    "status.said.boot.volumes.0.how": "attestation",
}
"""What the judge must find after the second boot."""
_OPENED = "tee-agent: [ok] volume root opened by attestation"
_PROMPTS = ("Passphrase of", "unlock disk")
_UNASKED = "the second boot got no secret from the service"
_GATEWAY = "10.0.2.2"
_SHIMS = {
    "tas": '#!/bin/sh\nexec {folder}/bin/tas-itself "$@" --state {folder}/tas\n',
    # SOURCE... HOST: copies to the guest's root; where the guest sent something it is in the home folder already
    "scp": '#!/bin/sh -e\nwhile [ $# -gt 1 ]; do cp "$1" {folder}/sent/; shift; done\n[ "$1" = vm: ]\n',
}
_GUEST = """\
scp() { # FILE HOST:
    curl -fsS --upload-file "$1" @/home/
}
cd /root
# A machine that never heard of us. Its disk is small, and update-initramfs works in /var/tmp.
rm -rf /etc/tee-agent /var/lib/tee-agent
mount -t tmpfs tmpfs /var/tmp
while curl -fsS --max-time 600 --output /run/step @/next; do
    . /run/step
    curl -fsS --data "$?" @/done
done
"""


@dataclass(slots=True)
class Followed:
    """Both boots, and seconds and command of each step. ``problems`` is empty when the guide kept its promise."""

    first: Ended
    second: Ended
    times: list[tuple[float, str]]
    problems: list[str]


@dataclass(slots=True)
class Scene:
    """The folder of one run, and the service's machine in it."""

    folder: Path
    port: int
    steps: list[guide.Step] = field(default_factory=list)
    cwd: Path = Path("/")
    service: subprocess.Popen[bytes] | None = None

    @property
    def table(self) -> Mapping[str, str]:
        """What the guide has as an example, and what it is here."""
        return {
            "apt install git make": "command -v git make",
            "git clone <this repository> tee-agent && cd tee-agent": f"cd {REPOSITORY}",
            "make setup": "make --dry-run setup",
            "make deb": "make --dry-run deb",
            "build/tee-agent*.deb": f"{DEBS}/tee-agent*.deb",
            "/usr/local/bin/tas": f"{self.folder}/bin/tas-itself",
            "/var/lib/tas/": f"{self.folder}/tas/",
            "/var/lib/tas-endorsements": f"{self.folder}/endorsements",
            "https://kdsintf.amd.com/vcek/v1/Genoa/": f"file://{self.folder}/vendor/",
            "0.0.0.0:8443": f"127.0.0.1:{self.port}",
            "tas.example.org:8443": f"{_GATEWAY}:{self.port}",
            "tas.example.org": _GATEWAY,
            "vda5_crypt": "root",
            "0a1b...": image.LUKS_UUID,
        }

    @property
    def pin(self) -> str:
        """As an admin sees it on the service's machine."""
        return next(word for word in self.host("tas check").split() if word.startswith("spki:"))

    def released(self) -> int:
        """How often the service gave the secret away so far."""
        lines = (self.folder / "tas.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return sum(event["event"] == "decision" and event["verdict"] == "released" for event in events)

    def host(self, command: str) -> str:
        """Run one command as the service's root; stdout and stderr. Raises HarnessError."""
        if command.startswith("tas serve "):
            return self._serve(command)
        script = f"set -eu\ncd {shlex.quote(str(self.cwd))}\n{command}\npwd >{self.folder}/cwd\n"
        text = run("sh", "-c", script, env=self._env())
        self.cwd = Path((self.folder / "cwd").read_text().strip())
        return text

    def _env(self) -> dict[str, str]:
        return {"HOME": str(self.folder / "home"), "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def _serve(self, command: str) -> str:
        reader, writer = os.pipe()
        with (self.folder / "tas.log").open("wb") as log:
            self.service = subprocess.Popen(
                ["sh", "-c", f"exec {command} --ready-fd {writer} --trust-root {self.folder}/root.pem"],
                cwd=self.cwd,
                env={**os.environ, **self._env()},
                pass_fds=(writer,),
                stdout=log,
                stderr=log,
            )
        os.close(writer)
        with os.fdopen(reader) as ready:
            if not ready.readline():
                raise HarnessError(f"{command}\ndid not serve: {(self.folder / 'tas.log').read_text()}")
        return ""

    def stop(self) -> None:
        if self.service:
            self.service.kill()
            self.service.wait(20)


def follow() -> Followed:
    """The whole guide. Raises HarnessError at the first command that does not end as the guide says."""
    debs()  # refuses stale ones
    here = world("plain")
    emulator()
    with place() as folder, ExitStack() as stack:
        scene = stack.enter_context(_scene(here, folder))
        disk = scene.folder / "disk.img"
        run("cp", "--sparse=always", "--reflink=auto", here.file("disk.img"), disk)
        desk = stack.enter_context(Desk(_script(scene), scene.folder).served(_GUEST, _GATEWAY))
        try:
            first = _first_boot(scene, here, desk, disk)
            before = scene.released()
            second = _second_boot(scene, here, disk)
        except HarnessError as error:
            raise HarnessError(f"{error}\nconsole: {_keep(scene)}") from error
        problems = [*_problems(first, second, scene.pin), *([] if scene.released() > before else [_UNASKED])]
        if problems:
            problems.append(f"console: {_keep(scene)}")
        return Followed(first, second, desk.times, problems)


def _problems(first: Ended, second: Ended, pin: str) -> list[str]:
    report = second.reports[0]
    found = [
        f"{path} is {_at(report, path)!r}, not {value!r}" for path, value in ALONE.items() if _at(report, path) != value
    ]
    found += [f"somebody was asked for {text!r}" for text in _PROMPTS if qemu.seen(second.console, text) >= 0]
    if qemu.seen(second.console, _OPENED) < 0:
        found.append(f"the console did not show {_OPENED!r}")
    if qemu.seen(first.console, pin) < 0:
        found.append(f"setup did not show the pin of `tas check`, {pin}")
    return found


def _keep(scene: Scene) -> Path:
    FAILED.mkdir(exist_ok=True)
    kept = FAILED / "quickstart.log"
    kept.write_bytes(b"".join(path.read_bytes() for path in sorted(scene.folder.glob("*/console.log"))))
    return kept


@contextmanager
def _scene(here: World, folder: Path) -> Iterator[Scene]:
    for name in ("bin", "home", "sent", "vendor", "first", "second"):
        (folder / name).mkdir(parents=True)
    _export(here.file("state"), folder / "export")
    snp = folder / "export/snp"
    shutil.copy(snp / "crls/ark.der", folder / "vendor/crl")
    shutil.copy(snp / "root.pem", folder)
    (folder / "vendor/cert_chain").write_bytes(b"".join((snp / f"certs/{n}.pem").read_bytes() for n in ("ask", "ark")))
    (folder / "home/tee-agent").symlink_to(REPOSITORY)
    for name, text in _SHIMS.items():
        (folder / "bin" / name).write_text(text.format(folder=folder))
        (folder / "bin" / name).chmod(0o755)
    text = guide.GUIDE.read_text()
    scene = Scene(folder, free_port(), cwd=folder / "home")
    guide.require_used(text, scene.table)
    scene.steps = guide.steps(guide.substituted(text, scene.table))
    try:
        yield scene
    finally:
        scene.stop()


def _script(scene: Scene) -> Iterator[tuple[str, bool]]:
    """What the guest's root types, and whether it may fail, up to the reboot. In between the host's commands run."""
    for step in scene.steps:
        if step.machine == "tas":
            scene.host(step.command)
            for path in sorted((scene.folder / "sent").iterdir()):
                path.replace(scene.folder / "home" / path.name)
                yield f"curl -fsSO @/home/{path.name}", False
        elif step.command == FIRST_BOOT_LAST:
            yield 'curl -fsS --upload-file "/boot/initrd.img-$(uname -r)" @/home/initrd.img', False
            yield step.command, False
            return
        else:
            yield step.command, step.command == STALE


def _first_boot(scene: Scene, here: World, desk: Desk, disk: Path) -> Ended:
    person = Person(
        (
            ("unlock disk root", "PASSPHRASE\n"),
            ("login:", "root\n"),
            ("Password:", "root\n"),
            ("root@guest:~#", f"curl -fsS {desk.url}/guest >/run/guest && . /run/guest\n"),
            ("Is this the service's key?", "yes\n"),
            ("Passphrase that opens root", "PASSPHRASE\n"),
        )
    )

    def watch(machine: Machine) -> None:
        desk.require_good()
        person.watch(machine)

    ended = _boot(scene.folder / "first", _hardware(here, here.file("initrd.img"), disk), FIRST_SECONDS, watch)
    if ended.why != "off" or person.waits_for or not desk.finished:
        raise HarnessError(f"the first boot ended by {ended.why}, waiting for {person.waits_for!r}; {desk.where}")
    return ended


def _second_boot(scene: Scene, here: World, disk: Path) -> Ended:
    """Nobody at the console. The judge runs the guide's last command."""
    initrd = scene.folder / "home/initrd.img"
    hardware = _hardware(here, initrd, disk, probes="root,boot,login,status,times")
    ended = _boot(scene.folder / "second", hardware, SECOND_SECONDS, lambda _: None)
    if ended.why != "off" or not ended.reports:
        raise HarnessError(f"the second boot ended by {ended.why} after {ended.seconds:.0f} s, without a login")
    return ended


def _boot(folder: Path, hardware: Hardware, seconds: float, watch: Callable[[Machine], None]) -> Ended:
    with qemu.started(emulator(), hardware, folder) as machine:
        return machine.run(time.monotonic() + seconds, watch)


def _hardware(here: World, initrd: Path, disk: Path, probes: str = "none") -> Hardware:
    return Hardware(
        kernel=here.file("vmlinuz"),
        initrd=initrd,
        cmdline=CMDLINE,
        disks=(Disk(disk, "root-disk", kept=True), Disk(here.file("simulator.img"), "tee-simulator")),
        product=" ".join(("tee=snp", f"probes={probes}", *(f"sim:{word}" for word in SIMULATED["snp"]))),
    )
