"""What early boot brings into an initramfs: a committed list, and what must never be on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from initramfs import closure
from initramfs.closure import Missing, Module

COMMITTED = Path(__file__).with_name("closure.txt")
"""Our own modules and the packages that are not the standard library's; made by ``python -m tests.unit.test_closure``."""
MOST_MODULES = 240
MOST_BYTES = 4_000_000
"""Of Python code as .pyc (interpreter, extension modules and libraries are not in this sum)."""
NEVER = ("aiohttp", "requests", "pyudev", "sdnotify", "bcrypt", "asn1crypto", "asyncio", "tas", "sim", "tests")


def lines(modules: Sequence[Module]) -> list[str]:
    ours = {m.name for m in modules if m.name.split(".")[0] in ("agent", "snp", "tdx")}
    foreign = {m.name.split(".")[0] for m in modules} - {"agent", "snp", "tdx"} - set(sys.stdlib_module_names)
    return sorted(ours) + sorted(f"({name})" for name in foreign)


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    """Computed as the hook does: in an interpreter without site-packages of its own, and without our tests' imports."""
    return closure.modules()


def test_it_is_the_committed_list(modules: list[Module]) -> None:
    assert lines(modules) == COMMITTED.read_text().splitlines(), "python -m tests.unit.test_closure writes it anew"


def test_nothing_is_in_it_that_must_not_be(modules: list[Module]) -> None:
    assert [module.name for module in modules if module.name.split(".")[0] in NEVER] == []
    assert [module.name for module in modules if module.name.startswith(("agent.daemon", "agent.verify"))] == []
    assert [module.name for module in modules if module.name.startswith("agent.commands")] == []


def test_it_keeps_its_budget(modules: list[Module], tmp_path: Path) -> None:
    assert len(modules) <= MOST_MODULES
    total = 0
    for module in modules:
        if module.is_code:
            target = tmp_path / closure.place(module)
            closure._compile(module.path, target)
            total += target.stat().st_size
    assert total <= MOST_BYTES


def test_every_module_has_a_place_of_its_own(modules: list[Module]) -> None:
    places = [closure.place(module) for module in modules]
    assert len(set(places)) == len(places)
    assert not [place for place in places if place.is_absolute() or ".." in place.parts]
    ours = [place for module, place in zip(modules, places, strict=True) if module.name.startswith("agent.")]
    assert all(place.parts[:3] == ("usr", "lib", "tee-agent") for place in ours)


def test_compiled_code_is_the_same_every_time(tmp_path: Path) -> None:
    source = Path(closure.__file__)
    closure._compile(source, tmp_path / "a.pyc")
    closure._compile(source, tmp_path / "b.pyc")
    assert (tmp_path / "a.pyc").read_bytes() == (tmp_path / "b.pyc").read_bytes()


CONFIG = """
[tas]
url = "https://tas.example:1"
pins = [{pins}]
api_key_file = "/etc/key"
{more}
[[volume]]
name = "root"
device = "/dev/vda"
policy_ids = ["p"]
"""
SPKI, CA = f'"spki:sha256:{"00" * 32}"', f'"ca:sha256:{"00" * 32}"'


def system(tmp_path: Path, config: str, *, crypttab: str = "root /dev/vda none luks\n") -> tuple[Path, Path]:
    """Where the configuration comes from, and an image that cryptsetup's hook was at."""
    source, image = tmp_path / "system", tmp_path / "image"
    (source / "etc/tee-agent").mkdir(parents=True)
    (image / "cryptroot").mkdir(parents=True)
    (image / "cryptroot/crypttab").write_text(crypttab)
    (source / "etc/tee-agent/tee-agent.toml").write_text(config)
    (source / "etc/key").write_text("key")
    (source / "etc/key").chmod(0o600)
    (source / "etc/ca.pem").write_text("pem")
    return source, image


def files(image: Path) -> list[str]:
    return sorted(path.relative_to(image).as_posix() for path in image.rglob("*") if path.is_file())


def test_measured_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "modules", list)
    source, image = system(tmp_path, CONFIG.format(pins=SPKI, more=""))
    assert list(closure.install(image, source)) == []
    config = ["etc/key", "etc/tee-agent/tee-agent.toml"]
    assert files(image) == ["conf/conf.d/tee-agent", "cryptroot/crypttab", *config, "usr/lib/tee-agent/stop"]
    assert (image / "etc/key").stat().st_mode & 0o777 == 0o600


def test_a_command_line_that_would_be_refused_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(closure, "modules", list)
    source, image = system(tmp_path, CONFIG.format(pins=SPKI, more="") + "[boot]\nroot = '/dev/none/such'\n")
    assert list(closure.install(image, source)) == []
    said = capsys.readouterr().err
    assert "WARNING: as this machine runs now, the next boot would stop: the kernel command line" in said


def test_authorities_come_with_the_time_they_were_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "modules", list)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source, image = system(tmp_path, CONFIG.format(pins=CA, more='ca_file = "/etc/ca.pem"'))
    assert list(closure.install(image, source)) == []
    assert (image / "etc/ca.pem").read_text() == "pem"
    assert (image / "etc/tee-agent/build-time").read_text() == "1700000000\n"


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closure, "modules", list)
    source, image = system(tmp_path, CONFIG.format(pins=SPKI, more=""))
    (source / "etc/key").unlink()
    with pytest.raises(Missing, match="etc/key"):
        list(closure.install(image, source))


def test_without_configuration_or_volume_the_image_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, image = system(tmp_path, CONFIG.format(pins=SPKI, more=""), crypttab="other /dev/vda none luks\n")
    assert list(closure.install(image, source)) == []
    assert "nothing is unlocked by attestation" in capsys.readouterr().err
    (source / "etc/tee-agent/tee-agent.toml").unlink()
    assert list(closure.install(image, source)) == []
    assert "not there yet" in capsys.readouterr().err
    assert files(image) == ["cryptroot/crypttab"]


def test_a_configuration_that_is_refused_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, image = system(tmp_path, "[boot]\nno = 1\n")
    monkeypatch.setattr(closure, "CONFIG", source / closure.CONFIG)
    assert closure.main(["install", str(image)]) == 1
    assert "unknown key" in capsys.readouterr().err
    assert files(image) == ["cryptroot/crypttab"]


if __name__ == "__main__":
    COMMITTED.write_text("".join(f"{line}\n" for line in lines(closure.modules())))
