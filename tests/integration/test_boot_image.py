"""Early boot from an image that has only what the hook computes: real interpreter, real service, simulated hardware."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.deadline import Deadline
from agent.disk import pin
from agent.disk.bind import bind
from agent.disk.device import opened
from tests.support import luks
from tests.support.bootimage import Booted, BootImage, Typist, files_below
from tests.support.simulator import Simulator, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy

pytestmark = [pytest.mark.fuse, pytest.mark.root, luks.needs_cryptsetup]
MEASUREMENT = "ab" * 48


class World:
    """A simulated machine, a service that gives it its secret, and a volume bound to that secret."""

    def __init__(self, sim: Simulator, service: RunningTas, folder: Path) -> None:
        self.sim = sim
        self.service = service
        self.volume = luks.make_image(folder / "volume.img")
        secret = service.secret("disk")
        bind(
            luks.volume(self.volume, "vault", "good"),
            ask=luks.asking(),
            fetch=luks.fetching(secret),
            deadline=Deadline(120, "bind"),
            unmeasured_boot=True,
        )
        self.image = BootImage(
            folder / "image", self.config(), {"etc/tee-agent/api-key": service.api_key_file.read_bytes()}
        )

    def config(self, *, url: str = "", pin: str = "", volume: str = "", seconds: int = 20, prompt: int = 60) -> str:
        return f"""
[tas]
url = "{url or self.service.url}"
pins = ["{pin or self.service.pin}"]
api_key_file = "/etc/tee-agent/api-key"
deadline_seconds = 20
[evidence]
tsm_root = "/tsm"
[[volume]]
name = "vault"
device = "/volume.img"
policy_ids = ["good"]
initramfs = true
{volume}
[boot]
ip = "none"
deadline_seconds = {seconds}
prompt_seconds = {prompt}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pki_state: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("boot")
    with (
        running_simulator("snp", folder, pki_state, "--measurement", MEASUREMENT) as sim,
        running_tas(folder / "tas", trust_roots=[sim.root_pem], endorsements=sim.export) as service,
    ):
        service.create_secret("disk")
        service.put_policy(snp_policy("good", "disk", MEASUREMENT))
        yield World(sim, service, folder)


@pytest.fixture
def boot(world: World, tmp_path: Path) -> Callable[..., Booted]:
    """Boots a fresh image; keywords change its configuration."""

    def run(
        command_line: str = "",
        change: Callable[[Path], None] = lambda volume: None,
        types: tuple[str, ...] | None = None,
        **configuration: Any,
    ) -> Booted:
        image = world.image.copy(tmp_path / "image", world.config(**configuration))
        shutil.copy(world.volume, image.folder / "volume.img")
        change(image.folder / "volume.img")
        if command_line:
            image.command_line(command_line)
        booted = image.boot("unlock", world.sim.mount, None if types is None else Typist(*types))
        assert "Traceback" not in booted.console
        return booted

    return run


def test_secret_arrives_and_the_volume_opens(boot: Callable[..., Booted], world: World) -> None:
    done = boot()
    assert done.status == 0, done.console
    (volume,) = done.report["volumes"]
    assert (volume["how"], volume["policy_id"], volume["code"]) == ("attestation", "good", "")
    assert done.report["outcome"] == "unlocked"
    assert done.report["notices"] == ["the service decided under an added root of trust, not under the vendor's"]
    order = ["agent", "network started", "imported", "network", "key", "evidence", "secret", "mapped"]
    assert [name for name, _ in sorted(done.report["timeline"].items(), key=lambda item: item[1])] == order
    assert world.service.secret("disk").hex() not in done.console + str(done.report)


@pytest.mark.parametrize("word", ["break=top", "init=/bin/sh", "rescue", "single", "rd.break", "systemd.unit=x"])
def test_command_line_of_the_host_stops_before_anything_is_asked(
    boot: Callable[..., Booted], world: World, word: str
) -> None:
    before = len(world.service.log())
    done = boot(f"root=/dev/mapper/root ro {word}")
    assert done.status == 1
    assert f"[denied.cmdline] the kernel command line has '{word}'" in done.console
    assert done.report["code"] == "denied.cmdline"
    assert len(world.service.log()) == before
    assert "Passphrase" not in done.console


def test_unreachable_service_with_halt_stops_and_says_why(boot: Callable[..., Booted]) -> None:
    done = boot(url="https://127.0.0.1:1", volume='fallback = "halt"', seconds=5)
    assert done.status == 1
    assert done.report["outcome"] == "stopped"
    assert done.report["code"].startswith("transport")
    assert "[transport" in done.console


def test_wrong_service_is_refused_by_its_key(boot: Callable[..., Booted]) -> None:
    done = boot(pin="spki:sha256:" + "00" * 32, volume='fallback = "halt"')
    assert done.status == 1
    assert done.report["code"] == "transport.tls.pin"


def test_header_outside_the_allow_list_never_gets_a_prompt(boot: Callable[..., Booted], world: World) -> None:
    def null_cipher(volume: Path) -> None:
        luks.rewrite(volume, lambda document: document["segments"]["0"].update(encryption="cipher_null-ecb"))

    before = len(world.service.log())
    done = boot(change=null_cipher, volume='fallback = "prompt"')
    assert done.status == 1
    assert done.report["code"] == "disk.header.null-cipher"
    assert len(world.service.log()) == before


def test_no_console_to_ask_at_stops(boot: Callable[..., Booted]) -> None:
    done = boot(url="https://127.0.0.1:1", seconds=5)
    assert done.status == 1
    assert done.report["code"] == "platform.console"
    assert done.report["volumes"][0]["code"].startswith("transport")


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("root=/dev/mapper/root ro", "verify.root", "nothing is mounted at /root"),
        ("root=/dev/mapper/root ro boot=nfs", "denied.cmdline", "boot=nfs"),
    ],
)
def test_root_is_not_entered_unless_it_lies_on_an_opened_volume(
    world: World, tmp_path: Path, line: str, code: str, text: str
) -> None:
    image = world.image.copy(tmp_path / "image", world.config())
    image.command_line(line)
    done = image.boot("root")
    assert done.status == 1
    assert f"[{code}]" in done.console
    assert text in done.console
    assert done.report["code"] == code


PASSPHRASE = luks.PASSPHRASE.decode()
UNREACHABLE = {"url": "https://127.0.0.1:1", "seconds": 5}


def test_typed_passphrase_opens_when_the_service_is_unreachable(boot: Callable[..., Booted]) -> None:
    done = boot(types=("wrong", PASSPHRASE), **UNREACHABLE)
    assert done.status == 0, done.console
    assert "this console is visible to the host" in done.console
    assert "[denied.passphrase]" in done.console
    assert "[unpinned]" in done.console
    assert PASSPHRASE not in done.console
    (volume,) = done.report["volumes"]
    assert (volume["how"], volume["pinned"], volume["slot"]) == ("passphrase", False, 0)
    assert volume["code"].startswith("transport")
    assert done.report["outcome"] == "unlocked"


def test_three_wrong_passphrases_stop(boot: Callable[..., Booted]) -> None:
    done = boot(types=("wrong", "", "wrong"), **UNREACHABLE)
    assert done.status == 1
    assert done.report["code"] == "denied.passphrase"


def test_the_service_s_no_leads_to_the_prompt(boot: Callable[..., Booted], world: World) -> None:
    world.service.put_policy(snp_policy("good", "disk", "cd" * 48), replace=True)
    try:
        done = boot(types=(PASSPHRASE,))
    finally:
        world.service.put_policy(snp_policy("good", "disk", MEASUREMENT), replace=True)
    assert done.status == 0, done.console
    assert done.report["volumes"][0]["code"].startswith("denied")


def test_pinned_volume_is_known(boot: Callable[..., Booted], world: World) -> None:
    with opened(str(world.volume)) as device:
        right = f'volume_key = "sha256:{pin.of(device.header()).hex()}"'
    done = boot(types=(PASSPHRASE,), volume=right, **UNREACHABLE)
    assert done.status == 0, done.console
    assert done.report["volumes"][0]["pinned"]
    assert "[unpinned]" not in done.console


def test_another_volume_in_place_of_the_pinned_one_gets_no_prompt(boot: Callable[..., Booted], world: World) -> None:
    with opened(str(world.volume)) as device:
        header = device.header()
    pinned = f'volume_key = "sha256:{pin.of(header).hex()}"'

    def exchange(volume: Path) -> None:
        luks.make_image(volume, "--uuid", header.uuid)  # the same UUID, a passphrase that its maker knows

    done = boot(types=(PASSPHRASE,), change=exchange, volume=pinned, **UNREACHABLE)
    assert done.status == 1
    assert done.report["code"] == "disk.tampered.pin"
    assert "Passphrase" not in done.console


def test_nobody_types(boot: Callable[..., Booted]) -> None:
    done = boot(types=(), prompt=5, **UNREACHABLE)
    assert done.status == 1
    assert done.report["code"] == "transport.deadline"
    assert "waiting for a passphrase" in done.console


def test_image_has_nothing_that_early_boot_must_not_have(world: World) -> None:
    folder = world.image.folder
    files = list(files_below(folder / "usr/lib/tee-agent"))
    assert not [name for name in files if name.endswith(".py")]
    assert not [name for name in files if "bcrypt" in name]
    assert (folder / "usr/lib/tee-agent/stop").read_text() == "halt\n"
    assert (folder / "conf/conf.d/tee-agent").read_text() == "noresume=y\n"
