"""The admin's first hour with real processes: setup, policy draft, bind, preflight, on simulated hardware."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import luks
from tests.support.firsthour import PLAIN, ROOT, SECONDS, Machine
from tests.support.simulator import running_simulator
from tests.support.tas import running_tas

pytestmark = [pytest.mark.fuse, pytest.mark.root, luks.needs_cryptsetup]


@pytest.fixture(scope="module", params=["snp", "tdx"])
def fresh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki_state: Path
) -> Iterator[Machine]:
    """Packages are installed, so to say: of the configuration there is only where the evidence comes from."""
    folder = tmp_path_factory.mktemp(f"hour-{request.param}")
    with ExitStack() as stack:
        sim = stack.enter_context(running_simulator(request.param, folder, pki_state))
        service = stack.enter_context(running_tas(folder / "tas", trust_roots=[sim.root_pem], endorsements=sim.export))
        guest = folder / "guest"
        (guest / "etc").mkdir(parents=True)
        machine = Machine(guest, sim, service)
        machine.config.write_text(
            f'[evidence]\ntsm_root = "{sim.mount}"\nlock_file = "{folder}/lock"\n'
            f'[daemon]\nruntime_dir = "{folder}/run"\naudience = "example"\n'
        )
        luks.make_image(machine.image)
        service.create_secret("vault-key")
        yield machine


@pytest.fixture
def machine(fresh: Machine, tmp_path: Path) -> Machine:
    return fresh.copy(tmp_path / "guest")


@pytest.fixture(scope="module")
def ready(fresh: Machine, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """After the whole first hour: configured, policy at the service, volume bound."""
    machine = fresh.copy(tmp_path_factory.mktemp("ready") / "guest")
    done = machine.setup("--force", "--yes", *machine.volume())
    assert done.status == 0, done.err
    policy = machine.folder / "web-1.json"
    drafted = machine.agent("policy", "draft", "--key-id", "vault-key", "--policy-id", "web-1", "-o", str(policy))
    assert drafted.status == 0, drafted.err
    machine.service.run("policy", "put", str(policy), "--replace")
    key = machine.folder / "passphrase"
    key.write_bytes(luks.PASSPHRASE)
    bound = machine.agent("disk", "bind", "vault", "--key-file", str(key), "--unmeasured-boot")
    assert bound.status == 0, bound.err
    return machine


def unchanged(machine: Machine, fresh: Machine) -> bool:
    """Nothing was written by a setup that failed."""
    names = [path.name for path in machine.config.parent.iterdir()]
    return names == ["tee-agent.toml"] and machine.config.read_text() == fresh.config.read_text()


def test_nobody_is_trusted_on_first_sight(machine: Machine, fresh: Machine) -> None:
    done = machine.setup("--force", pin="")
    assert done.status == 64
    assert "[usage.pin]" in done.err
    assert machine.service.pin in done.err
    assert unchanged(machine, fresh)


def test_another_key_than_the_pinned_one_is_refused(machine: Machine, fresh: Machine) -> None:
    done = machine.setup("--force", "--yes", pin="spki:sha256:" + "00" * 32)
    assert done.status == 75
    assert "[transport.tls.pin]" in done.err
    assert unchanged(machine, fresh)


def test_an_api_key_that_the_service_refuses_is_not_written(machine: Machine, fresh: Machine) -> None:
    wrong = machine.folder / "wrong"
    wrong.write_text("x" * 64)
    done = machine.setup("--force", "--yes", key=wrong)
    assert done.status == 77
    assert unchanged(machine, fresh)


def test_what_is_there_is_replaced_only_by_force_after_the_difference(machine: Machine, fresh: Machine) -> None:
    done = machine.setup("--yes")
    assert done.status == 73
    assert f'+url = "{machine.service.url}"' in done.err
    assert unchanged(machine, fresh)
    forced = machine.setup("--yes", "--force")
    assert forced.status == 0
    written = machine.config.read_text()
    assert machine.service.pin in written
    assert 'audience = "example"' in written
    again = machine.setup("--yes")
    assert again.status == 0
    assert "nothing: all is as asked already" in again.out


def test_modes_are_set_and_mended(machine: Machine) -> None:
    assert machine.setup("--yes", "--force").status == 0
    key = machine.config.parent / "tas-api-key"
    key.chmod(0o644)
    assert machine.setup("--yes").status == 0
    assert stat.S_IMODE(machine.config.stat().st_mode) == 0o644
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().strip() == machine.service.api_key_file.read_text().strip()


@contextmanager
def terminal(machine: Machine, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`tee-agent setup` with somebody in front of it; the descriptor is where that one sits."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "agent.cli", "setup", "--url", machine.service.url, "--config", str(machine.config)]
    argv += ["--api-key-file", str(machine.service.api_key_file), *words]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        os.close(ours)
        process.kill()
        process.wait(SECONDS)


def read_until(fd: int, words: str) -> str:
    """What is shown, up to ``words`` or the end."""
    shown = b""
    while words.encode() not in shown:
        try:
            shown += os.read(fd, 4096)
        except OSError:
            break
    return shown.decode()


def test_somebody_at_a_terminal_may_confirm_the_pin(machine: Machine) -> None:
    with terminal(machine) as (process, fd):
        shown = read_until(fd, "yes/no: ")
        assert machine.service.pin in shown
        assert "valid" in shown
        os.write(fd, b"yes\n")
        shown = read_until(fd, "Replace it? yes/no: ")
        assert "[conflict.exists]" in shown
        assert process.wait(SECONDS) == 73
    with terminal(machine, "--force") as (process, fd):
        for question in ("service's key? yes/no: ", "Replace it? yes/no: "):
            assert question in read_until(fd, question)
            os.write(fd, b"yes\n")
        assert "disk bind" in read_until(fd, "config check") + "disk bind"
        assert process.wait(SECONDS) == 0
    assert machine.service.pin in machine.config.read_text()


def test_somebody_at_a_terminal_may_say_no(machine: Machine, fresh: Machine) -> None:
    with terminal(machine, "--force") as (process, fd):
        read_until(fd, "yes/no: ")
        os.write(fd, b"y\n")  # not the whole word
        assert "not confirmed" in read_until(fd, "[transport.tls.pin]")
        assert process.wait(SECONDS) == 75
    assert unchanged(machine, fresh)


def test_the_whole_hour_ends_with_a_machine_that_comes_back(ready: Machine) -> None:
    done = ready.agent("preflight", "--json")
    assert done.json["comes_back"], done.out
    assert done.status == 0
    assert done.finding("volume vault")["text"].startswith("would open: policy web-1")
    # The second policy is not at the service yet: a note, no problem.
    assert [one["state"] for one in done.json["findings"] if one["subject"] == "volume vault"][:2] == ["ok", "note"]
    assert ready.agent("preflight", "--quiet").out == ""


def test_no_secret_and_no_key_is_shown_or_left(ready: Machine) -> None:
    secret, before = ready.service.secret("vault-key"), sorted(ready.folder.rglob("*"))
    for words in (("preflight", "--json"), ("config", "check"), ("config", "show"), ("disk", "test", "vault")):
        done = ready.agent(*words)
        assert secret.hex() not in done.out + done.err
        assert ready.service.api_key_file.read_text().strip() not in done.out + done.err
    assert sorted(ready.folder.rglob("*")) == before


def test_a_hostile_command_line_is_told_before_the_reboot(ready: Machine) -> None:
    done = ready.agent("preflight", "--json", command_line=f"{PLAIN} init=/bin/sh")
    assert done.status == 1
    assert "init=/bin/sh" in done.finding("command line")["text"]


def test_a_header_that_was_tampered_with_would_not_open(ready: Machine, tmp_path: Path) -> None:
    machine = ready.copy(tmp_path / "guest")

    def change(document: dict[str, Any]) -> None:
        document["tokens"]["0"]["mac"] = "00" * 32

    luks.rewrite(machine.image, change)
    done = machine.agent("preflight", "--json")
    assert done.status == 1
    assert done.finding("volume vault")["state"] == "PROBLEM"


def test_a_volume_of_early_boot_needs_the_initramfs(ready: Machine, tmp_path: Path) -> None:
    machine = ready.copy(tmp_path / "guest")
    machine.config.write_text(machine.config.read_text().replace("[[volume]]", "[[volume]]\ninitramfs = true"))
    done = machine.agent("preflight", "--json")
    assert done.status == 1
    assert done.finding("initramfs")["state"] == "PROBLEM"


def test_an_unreachable_service_is_no_fault_of_the_configuration(ready: Machine, tmp_path: Path) -> None:
    machine = ready.copy(tmp_path / "guest")
    machine.config.write_text(machine.config.read_text().replace(machine.service.url, "https://127.0.0.1:1"))
    checked = machine.agent("config", "check", "--json")
    assert checked.finding("TAS")["text"].startswith("not reached")
    assert (checked.status, checked.json["good"]) == (0, True)
    done = machine.agent("preflight", "--json")
    assert done.status == 1
    assert done.finding("volume vault")["text"].startswith("not tried")


def test_config_check_sees_another_key_at_the_address(ready: Machine, tmp_path: Path) -> None:
    machine = ready.copy(tmp_path / "guest")
    machine.config.write_text(machine.config.read_text().replace(machine.service.pin, "spki:sha256:" + "00" * 32))
    done = machine.agent("config", "check", "--json")
    assert done.status == 78
    assert "none of the pinned ones" in done.finding("TAS", of="problems")["text"]


def test_config_check_sees_an_exchanged_volume_and_loose_modes(ready: Machine, tmp_path: Path) -> None:
    machine = ready.copy(tmp_path / "guest")
    assert machine.agent("config", "check", "--quiet").out == ""
    luks.make_image(machine.image)
    machine.config.chmod(0o664)
    done = machine.agent("config", "check", "--json")
    assert done.status == 78
    assert {one["subject"] for one in done.json["problems"]} == {"configuration", "volume vault"}


def test_show_prints_a_configuration_with_its_defaults(ready: Machine, tmp_path: Path) -> None:
    shown = ready.agent("config", "show")
    assert "deadline_seconds = 60  # default" in shown.out
    copy = tmp_path / "shown.toml"
    copy.write_text(shown.out)
    again = ready.agent("config", "show", str(copy))
    assert again.out == shown.out
