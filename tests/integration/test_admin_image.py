"""Is an initramfs of today? Made by the same code that the hook runs, then aged in every way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.admin import image, preflight, volumes
from agent.admin.image import Looked
from agent.core.config import Config, parse
from agent.core.crypttab import Entry
from agent.core.errors import PlatformError
from agent.deadline import Deadline
from agent.run import Completed
from initramfs import closure

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "6.12.0-amd64"
CONFIG = """
[tas]
url = "https://tas.example"
pins = ["spki:sha256:{}"]
api_key_file = "/etc/tee-agent/tas-api-key"
[[volume]]
name = "vault"
device = "/dev/vdb"
policy_ids = ["a"]
""".format("ab" * 32)
WHERE = Path("/boot/initrd.img")


class Made:
    """A system, and the image that its hook made."""

    def __init__(self, folder: Path) -> None:
        self.system, self.main = folder / "system", folder / "main"
        self.put(self.system, "etc/tee-agent/tee-agent.toml", CONFIG)
        self.put(self.system, "etc/tee-agent/tas-api-key", "key")
        self.put(self.main, "cryptroot/crypttab", "vault /dev/vdb none luks\n")
        for name in ("boot", "network"):
            text = (ROOT / "initramfs" / name).read_text()
            self.put(self.system, f"usr/lib/tee-agent/initramfs/{name}", text)
            self.put(self.main, f"usr/lib/tee-agent/{name}", text)
        for step in ("local-top", "init-bottom", "panic"):
            text = (ROOT / "initramfs" / "scripts" / step / "tee-agent").read_text()
            self.put(self.system, f"usr/share/initramfs-tools/scripts/{step}/tee-agent", text)
            self.put(self.main, f"scripts/{step}/tee-agent", text)
        assert list(closure.install(self.main, self.system))
        (self.main / "usr/lib/modules" / KERNEL).mkdir(parents=True)

    @staticmethod
    def put(root: Path, name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    def config(self) -> Config:
        path = self.system / "etc/tee-agent/tee-agent.toml"
        text = path.read_text()
        return parse(text, "/etc/tee-agent/tee-agent.toml")

    def judged(self) -> Looked:
        return image.judge(self.main, WHERE, KERNEL, self.config(), self.system)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    Made(folder)
    return folder


@pytest.fixture
def made(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    shutil.copytree(template, tmp_path / "world")
    found = object.__new__(Made)
    found.system, found.main = tmp_path / "world/system", tmp_path / "world/main"
    # Python's own modules are where they are.
    for folder in found.main.rglob("lib/python3*"):
        place = found.system / folder.relative_to(found.main)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(Path("/") / folder.relative_to(found.main))
    return found


def test_what_was_just_made_is_current(made: Made) -> None:
    looked = made.judged()
    assert (looked.state, looked.names) == ("current", frozenset({"vault"})), looked.text
    assert "opens vault" in looked.text


def a_changed_configuration(made: Made) -> None:
    made.put(made.system, "etc/tee-agent/tee-agent.toml", CONFIG + '[boot]\nstop = "reboot"\n')


def a_changed_key(made: Made) -> None:
    made.put(made.system, "etc/tee-agent/tas-api-key", "new")


def another_kernel(made: Made) -> None:
    (made.main / "usr/lib/modules" / KERNEL).rename(made.main / "usr/lib/modules/6.1.0-amd64")


def a_changed_script(made: Made) -> None:
    made.put(made.system, "usr/share/initramfs-tools/scripts/panic/tee-agent", "#!/bin/sh\n")


def another_agent(made: Made) -> None:
    module = made.main / "usr/lib/tee-agent/agent/boot/root.pyc"
    data = bytearray(module.read_bytes())
    data[8] ^= 1  # the hash of its source
    module.write_bytes(data)


def another_python(made: Made) -> None:
    module = made.main / "usr/lib/tee-agent/agent/boot/root.pyc"
    module.write_bytes(b"\0\0\r\n" + module.read_bytes()[4:])


def a_module_that_is_gone(made: Made) -> None:
    shutil.copy(made.main / "usr/lib/tee-agent/agent/boot/root.pyc", made.main / "usr/lib/tee-agent/agent/boot/old.pyc")


def a_volume_new_to_the_boot(made: Made) -> None:
    made.put(made.system, "etc/crypttab", "vault /dev/vdb none luks\nvault2 /dev/vdc none luks,initramfs\n")


def no_agent_at_all(made: Made) -> None:
    shutil.rmtree(made.main / "usr/lib/tee-agent")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (a_changed_configuration, "/etc/tee-agent/tee-agent.toml differs"),
        (a_changed_key, "/etc/tee-agent/tas-api-key differs"),
        (another_kernel, f"no modules of kernel {KERNEL}"),
        (a_changed_script, "scripts/panic/tee-agent differs"),
        (another_agent, "agent/boot/root.py differs"),
        (another_python, "agent/boot/root.py differs"),
        (a_module_that_is_gone, "agent/boot/old.py is not installed any more"),
        (a_volume_new_to_the_boot, "its crypttab has no vault2"),
        (no_agent_at_all, "the boot agent is not in it"),
    ],
)
def test_stale_by(change: Callable[[Made], None], words: str, made: Made) -> None:
    change(made)
    looked = made.judged()
    assert looked.state == "stale"
    assert words in looked.text


def test_many_differences_are_counted(made: Made) -> None:
    for number in range(5):
        module = made.main / f"usr/lib/tee-agent/agent/old{number}.pyc"
        shutil.copy(made.main / "usr/lib/tee-agent/agent/__init__.pyc", module)
    assert made.judged().text.endswith("and 2 more")


def test_an_image_for_no_volume_of_ours_needs_nothing(made: Made) -> None:
    no_agent_at_all(made)
    made.put(made.main, "cryptroot/crypttab", "other /dev/vdc none luks\n")
    assert made.judged().state == "current"


def test_the_newest_kernel_s_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vmlinuz-6.9.0-amd64", "vmlinuz-6.12.0-amd64", "vmlinuz-6.12.0-rc1-amd64", "vmlinuz-5.10"):
        (tmp_path / name).touch()
    assert image.newest(tmp_path, "vmlinuz-") == "6.12.0-rc1-amd64"
    assert image.newest(tmp_path / "none", "vmlinuz-") == ""
    hook = tmp_path / "hook"
    monkeypatch.setattr(image, "HOOK", hook)
    monkeypatch.setattr(image, "BOOT", tmp_path)
    deadline = Deadline(60, "test")
    assert image.look(Config("f"), deadline).state == "not installed"
    hook.touch()
    looked = image.look(Config("f"), deadline)
    assert (looked.state, looked.text) == (
        "stale",
        f"kernel 6.12.0-rc1-amd64 has no initramfs ({tmp_path}/initrd.img-6.12.0-rc1-amd64)",
    )


def test_an_image_that_can_t_be_unpacked_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hook", "vmlinuz-6", "initrd.img-6"):
        (tmp_path / name).write_text("rubbish")
    monkeypatch.setattr(image, "HOOK", tmp_path / "hook")
    monkeypatch.setattr(image, "BOOT", tmp_path)
    looked = image.look(Config("f"), Deadline(60, "test"))
    assert (looked.state, looked.names) == ("unknown", None)
    # Fails closed: what early boot should open can't be said to open.
    monkeypatch.setattr(volumes, "entries", lambda: (Entry("vault", "/dev/vdb"),))
    config = parse(CONFIG, "f")
    (found,) = preflight.initramfs(config)
    assert (found.subject, found.state) == ("initramfs", "PROBLEM")


@pytest.mark.parametrize("parts", [("init",), ("early/kernel", "main/init")], ids=["alone", "behind microcode"])
def test_the_image_s_own_files_are_found_and_removed(parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(argv: tuple[str, ...], **_: object) -> Completed:
        for part in parts:
            (Path(argv[2]) / part).mkdir(parents=True)
        return Completed(argv, 0, b"", b"")

    monkeypatch.setattr(image, "run", unpack)
    with image.unpacked(WHERE, Deadline(60, "test")) as main:
        assert [path.name for path in main.iterdir()] == ["init"]
        scratch = main.parents[0 if main.name == "image" else 1]
        assert scratch.stat().st_mode & 0o077 == 0
    assert not scratch.exists()


def test_a_failed_unpacking_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "run", lambda argv, **_: Completed(argv, 1, b"", b"corrupted file\n"))
    with pytest.raises(PlatformError, match="corrupted file"), image.unpacked(WHERE, Deadline(60, "test")):
        pass


@pytest.mark.skipif(shutil.which("unmkinitramfs") is None, reason="initramfs-tools is not installed")
def test_a_real_image_is_unpacked() -> None:
    images = sorted(Path("/boot").glob("initrd.img-*"))
    if not images:
        pytest.skip("no initramfs in /boot")
    with image.unpacked(images[0], Deadline(120, "test")) as main:
        assert (main / "init").exists()
    assert not main.exists()
    with pytest.raises(PlatformError), image.unpacked(Path("/dev/null"), Deadline(120, "test")):
        pass
