"""Volumes as setup and config check see them: crypttab, UUIDs, pins."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.admin import inspect, volumes
from agent.core import crypttab
from agent.core.config import VolumeConfig, parse
from agent.core.crypttab import Entry
from agent.core.errors import DiskError, UsageError
from agent.disk import pin
from agent.disk.device import opened
from tests.support import luks

TABLE = """
# <target> <source> <key file> <options>
vda5_crypt UUID=0A1B none luks,discard
swap /dev/vdc /dev/urandom swap,cipher=aes-xts-plain64
lonely
data /dev/vdb
"""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    data = luks.header_bytes(*luks.sample())
    with path.open("wb") as file:
        file.write(data)
        file.truncate(luks.IMAGE_BYTES)
    return path


def test_crypttab_is_read_as_it_stands() -> None:
    assert crypttab.parse(TABLE) == (
        Entry("vda5_crypt", "UUID=0A1B", ("luks", "discard")),
        Entry("swap", "/dev/vdc", ("swap", "cipher=aes-xts-plain64")),
        Entry("data", "/dev/vdb"),
    )
    assert volumes.entries(Path("/nowhere")) == ()


def test_left_out_are_volumes_with_a_passphrase_only() -> None:
    known = (VolumeConfig("data", "/dev/vdb", ("a",)),)
    assert [one.name for one in volumes.left_out(known, crypttab.parse(TABLE))] == ["vda5_crypt"]


def test_sources_are_what_they_mean_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "DEV", tmp_path)
    device = tmp_path / "vda5"
    device.touch()
    for folder, name in (("by-uuid", "0a1b"), ("by-label", "Root")):
        (tmp_path / "disk" / folder).mkdir(parents=True)
        (tmp_path / "disk" / folder / name).symlink_to(device)
    for source in (str(device), "UUID=0A1B", 'UUID="0a1b"', "LABEL=Root"):
        assert volumes.meant(source) == device
    for source in ("UUID=ffff", "PARTUUID=0a1b", "/dev/none", "none"):
        assert volumes.meant(source) is None


def test_a_volume_is_settled_with_its_pin(disk: Path) -> None:
    with opened(str(disk)) as device:
        expected = pin.of(device.header())
    given = luks.volume(disk, "vault")
    settled = volumes.settled(given, crypttab.parse(TABLE))
    # An image file keeps its path: no link in /dev/disk goes there.
    assert (settled.device, settled.volume_key) == (str(disk), expected)


def test_a_block_device_is_named_by_its_uuid(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "DEV", tmp_path)
    links = tmp_path / "disk" / "by-uuid"
    links.mkdir(parents=True)
    (links / luks.UUID).symlink_to(disk)

    class Block:
        def __init__(self, name: str) -> None:
            self._real = opened(name)

        def __enter__(self) -> object:
            device = self._real.__enter__()
            return type("D", (), {"header": device.header, "path": device.path, "is_block": True})()

        def __exit__(self, *error: object) -> None:
            self._real.__exit__(None, None, None)

    monkeypatch.setattr(volumes, "opened", Block)
    assert volumes.settled(luks.volume(disk, "vault"), ()).device == f"UUID={luks.UUID}"
    # A link that leads to another disk is not this disk's name.
    (links / luks.UUID).unlink()
    (links / luks.UUID).symlink_to(tmp_path)
    assert volumes.settled(luks.volume(disk, "vault"), ()).device == str(disk)


def test_crypttab_s_name_counts(disk: Path) -> None:
    table = (Entry("vda5_crypt", str(disk)),)
    with pytest.raises(UsageError, match="vda5_crypt") as caught:
        volumes.settled(luks.volume(disk, "root"), table)
    assert caught.value.hint == f"--volume vda5_crypt={disk}"
    assert volumes.settled(luks.volume(disk, "vda5_crypt"), table).name == "vda5_crypt"


def test_a_missing_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        volumes.settled(luks.volume(tmp_path / "none", "root"), ())


def test_check_of_a_volume(disk: Path) -> None:
    good = volumes.settled(luks.volume(disk, "vault"), ())
    found = inspect.volume(good, ())
    assert (found.state, "bound with policy policy-a" in found.text) == ("ok", True)
    renamed = inspect.volume(good, (Entry("other", str(disk)),))
    assert (renamed.state, renamed.hint) == ("PROBLEM", 'name = "other"')
    luks.rewrite(disk, lambda document: document["digests"]["0"].update(salt=luks.b64(b"\1" * 32)))
    exchanged = inspect.volume(good, ())
    assert exchanged.state == "PROBLEM"
    assert "pinned" in exchanged.text
    disk.unlink()
    assert inspect.volume(good, ()).state == "PROBLEM"


@pytest.mark.parametrize(
    ("token", "state", "words"),
    [
        (None, "note", "not bound"),
        (luks.token_document(state="pending", keyslots=[], mac=""), "PROBLEM", "pending"),
        (luks.token_document(key_id="other"), "PROBLEM", "which policy_ids does not name"),
    ],
)
def test_check_of_a_binding(token: dict[str, object] | None, state: str, words: str, disk: Path) -> None:
    luks.rewrite(disk, lambda document: document.update(tokens={"0": token} if token else {}))
    found = inspect.volume(luks.volume(disk, "vault"), ())
    assert (found.state, words in found.text) == (state, True), found
    assert "tee-agent disk bind vault" in found.hint


def test_unsafe_values_are_named() -> None:
    config = parse(
        '[[volume]]\nname = "a"\ndevice = "/dev/a"\npolicy_ids = ["p"]\n'
        f'[[volume]]\nname = "b"\ndevice = "UUID={luks.UUID}"\npolicy_ids = ["p"]\nfallback = "halt"\n'
        "[boot]\nroot_check = false\n",
        "f",
    )
    found = [(one.subject, one.state) for one in inspect.values(config)]
    assert found == [("[tas]", "note"), ("[boot]", "PROBLEM"), ("volume a", "note"), ("volume a", "note")]
