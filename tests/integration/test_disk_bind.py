"""Binding with real cryptsetup on image files: the whole life of a binding, and what the admin does beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import run as door
from agent.core.errors import Conflict, Denied, NotBound, SecretError, TransportError
from agent.core.model import Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.deadline import Deadline
from agent.disk import bind as binding
from agent.disk import cryptsetup as program
from agent.disk import unbind as unbinding
from agent.disk import unlock as unlocking
from agent.disk.device import opened
from agent.disk.listing import list_volumes
from agent.disk.unbind import Unbound
from tests.support import luks
from tests.support.binds import bind, check, deadline, never, unbind
from tests.support.luks import PASSPHRASE, SECRET, fetching, metadata, opens, volume

pytestmark = luks.needs_cryptsetup


def test_a_whole_life(image: Path) -> None:
    before = metadata(image)
    done = bind(image)
    assert (done.slot, done.token, done.key_id, done.generation, done.changed) == (1, 0, "policy-a", 1, True)
    assert opens(image)
    opened = check(image)
    assert (opened.slot, opened.mapped, opened.note) == (1, "", "test-opened, not mapped")
    assert unbind(image) == Unbound(done.uuid, 1, 0)
    assert opens(image)
    assert metadata(image) == before
    with pytest.raises(NotBound, match="has no tee-agent token"):
        check(image)


def test_our_slot_and_token_are_what_the_design_says(image: Path) -> None:
    bind(image)
    written = metadata(image)
    slot, token = written["keyslots"]["1"], written["tokens"]["0"]
    assert (slot["kdf"]["type"], slot["kdf"]["iterations"], slot["kdf"]["hash"]) == ("pbkdf2", 1000, "sha256")
    assert (slot["area"]["encryption"], slot["area"]["key_size"]) == ("aes-xts-plain64", 64)
    mac = token.pop("mac")
    assert len(bytes.fromhex(mac)) == 32
    assert token == {
        "type": "tee-agent",
        "keyslots": ["1"],
        "version": 1,
        "slot": 1,
        "state": "bound",
        "key_id": "policy-a",
        "generation": 1,
    }


def test_binding_again_changes_nothing_and_asks_for_nothing(image: Path) -> None:
    first = bind(image)
    before = image.read_bytes()
    again = binding.bind(volume(image), ask=never, fetch=fetching(), deadline=deadline(), unmeasured_boot=True)
    assert (again.changed, again.slot, again.uuid) == (False, first.slot, first.uuid)
    assert image.read_bytes() == before


def test_without_device_mapper_an_image_is_test_opened_and_it_says_so(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlocking, "MAPPER", tmp_path / "mapper")
    monkeypatch.setattr(unlocking, "MISC_DEVICES", Path("/dev/null"))
    bind(image)
    opened = unlocking.unlock(volume(image), fetch=fetching(), deadline=deadline())
    assert (opened.mapped, opened.note) == ("", "test-opened, not mapped: no device-mapper")


def test_with_device_mapper_it_is_mapped_from_the_copy(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The call is recorded: this machine may have no device-mapper.
    bind(image)
    (tmp_path / "control").touch()
    monkeypatch.setattr(unlocking, "MAPPER", tmp_path)
    seen: list[tuple[str, ...]] = []
    real = door.run

    def recording(argv: tuple[str, ...], **options: Any) -> Any:
        seen.append(tuple(argv))
        return real(("true",), **{**options, "stdin": None})

    monkeypatch.setattr(program, "run", recording)
    opened = unlocking.unlock(volume(image), fetch=fetching(), deadline=deadline())
    assert opened.mapped == str(tmp_path / "data")
    (argv,) = seen
    assert argv[:2] == ("cryptsetup", "open")
    assert argv[-2:] == (str(image), "data")
    assert argv[argv.index("--header") + 1].startswith("/proc/self/fd/")
    assert argv[argv.index("--key-slot") + 1] == "1"
    assert "--test-passphrase" not in argv


def test_a_volume_that_is_mapped_already(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlocking, "MAPPER", tmp_path)
    (tmp_path / "data").touch()
    with pytest.raises(Conflict, match="is open"):
        unlocking.unlock(volume(image), fetch=never, deadline=deadline())


def test_the_secret_is_fetched_before_anything_is_written(image: Path) -> None:
    before = image.read_bytes()

    def refused(policy_id: str, deadline: AnyDeadline) -> Secret:
        raise TransportError("the service is away")

    with pytest.raises(TransportError):
        bind(image, refused)
    assert image.read_bytes() == before


def test_a_short_secret_binds_nothing(image: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(SecretError, match="31 bytes"):
        bind(image, fetching(SECRET[:31]))
    assert image.read_bytes() == before


def test_a_wrong_passphrase_leaves_no_trace(image: Path) -> None:
    before = image.read_bytes()
    with pytest.raises(Denied, match="opens no keyslot"):
        bind(image, fetching(), b"wrong")
    assert image.read_bytes() == before


def test_an_unmeasured_boot_binds_only_by_name(image: Path) -> None:
    with pytest.raises(Denied, match="initramfs measured: unknown") as caught:
        binding.bind(volume(image), ask=never, fetch=never, deadline=deadline())
    assert "--unmeasured-boot" in caught.value.hint


def test_passphrases_added_and_removed_beside_us(image: Path, tmp_path: Path) -> None:
    bind(image)
    luks.add_passphrase(image, b"second", tmp_path)
    luks.add_passphrase(image, b"unbound", tmp_path, "--unbound", "--key-size", "512")
    assert check(image).slot == 1
    luks.cryptsetup("luksRemoveKey", str(image), "--key-file", "-", stdin=PASSPHRASE)
    assert not opens(image)
    assert check(image).slot == 1
    (listed,) = list_volumes([volume(image)])
    assert (listed.state, listed.slot, listed.foreign_slots) == ("bound", 1, (2, 3))


def test_unbind_needs_another_passphrase(image: Path) -> None:
    bind(image)
    before = image.read_bytes()
    with pytest.raises(Denied, match="opens no other keyslot"):
        unbind(image, passphrase=b"wrong")
    assert image.read_bytes() == before


def test_unbind_never_leaves_a_volume_without_a_way_in(image: Path) -> None:
    bind(image)
    done = luks.cryptsetup("luksRemoveKey", str(image), "--key-file", "-", stdin=PASSPHRASE)
    assert done.returncode == 0
    with pytest.raises(Denied, match="could be lost"):
        unbind(image)
    assert check(image).slot == 1


def test_unbind_when_the_slot_is_gone_needs_no_secret(image: Path) -> None:
    bind(image)
    done = luks.cryptsetup("luksKillSlot", str(image), "1", "--key-file", "-", stdin=PASSPHRASE)
    assert done.returncode == 0
    with pytest.raises(NotBound, match="keyslot 1 is gone"):
        check(image)
    assert [one.state for one in list_volumes([volume(image)])] == ["stale"]
    uuid = unbinding.unbind(volume(image), ask=never, fetch=never, deadline=deadline())
    assert (uuid.slot, uuid.token) == (None, 0)


def test_a_reencrypted_image_is_bound_like_any_other(tmp_path: Path) -> None:
    # How an encrypted root image is made without device-mapper.
    image = tmp_path / "root.img"
    image.write_bytes(b"\x5a" * (24 << 20))
    options = ["--encrypt", "--type", "luks2", "--reduce-device-size", "16M", *luks.CHEAP, "--key-file", "-"]
    assert luks.cryptsetup("reencrypt", *options, str(image), stdin=PASSPHRASE).returncode == 0
    assert bind(image).changed
    assert check(image).slot == 1


def test_argon2_slots_stay_usable(tmp_path: Path) -> None:
    image = tmp_path / "argon.img"
    options = ("--pbkdf", "argon2id", "--pbkdf-memory", "32768", "--pbkdf-force-iterations", "4")
    with image.open("wb") as file:
        file.truncate(luks.IMAGE_BYTES)
    done = luks.cryptsetup("luksFormat", "--type", "luks2", *options, "--key-file", "-", str(image), stdin=PASSPHRASE)
    assert done.returncode == 0
    assert bind(image).changed
    assert unbind(image).slot == 1
    assert opens(image)


def test_two_at_once_take_turns(image: Path) -> None:
    with opened(str(image), write=True) as device:
        device.lock(deadline())
        with pytest.raises(Conflict, match="another tee-agent"):
            binding.bind(volume(image), ask=never, fetch=fetching(), deadline=Deadline(2, "test"), unmeasured_boot=True)
    assert bind(image).changed
