"""Binding with real cryptsetup on image files: the whole life of a binding, and what the admin does beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Never

import pytest

from agent import run as door
from agent.core.errors import Conflict, Denied, DiskError, HeaderTampered, NotBound, SecretError, TransportError
from agent.core.model import Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.deadline import Deadline
from agent.disk import bind as binding
from agent.disk import cryptsetup as program
from agent.disk import edits
from agent.disk import unbind as unbinding
from agent.disk import unlock as unlocking
from agent.disk.bind import Bound
from agent.disk.device import opened
from agent.disk.listing import list_volumes
from agent.disk.unbind import Unbound
from agent.disk.unlock import Opened
from agent.disk.volume import Fetch
from tests.support import luks
from tests.support.luks import PASSPHRASE, SECRET, asking, fetching, metadata, opens, volume

FETCH = fetching()
pytestmark = luks.needs_cryptsetup


def deadline() -> Deadline:
    return Deadline(60, "test")


def bind(image: Path, fetch: Fetch = FETCH, passphrase: bytes = PASSPHRASE, *policies: str) -> Bound:
    return binding.bind(
        volume(image, "data", *policies), ask=asking(passphrase), fetch=fetch, deadline=deadline(), unmeasured_boot=True
    )


def check(image: Path, fetch: Fetch = FETCH) -> Opened:
    return unlocking.test(volume(image), fetch=fetch, deadline=deadline())


def unbind(image: Path, fetch: Fetch = FETCH, passphrase: bytes = PASSPHRASE) -> Unbound:
    return unbinding.unbind(volume(image), ask=asking(passphrase), fetch=fetch, deadline=deadline())


def never(*_: object) -> Never:
    raise AssertionError("must not be called")


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


def test_a_stale_token_is_bound_anew(image: Path) -> None:
    bind(image)
    luks.cryptsetup("luksKillSlot", str(image), "1", "--key-file", "-", stdin=PASSPHRASE)
    again = bind(image)
    assert (again.slot, again.token, again.generation, again.changed) == (1, 0, 2, True)
    assert check(image).slot == 1


def test_a_pending_token_never_takes_a_foreign_slot(image: Path, tmp_path: Path) -> None:
    luks.add_passphrase(image, b"second", tmp_path)
    token = luks.token_document(state="pending", keyslots=[], mac="", slot=1)
    luks.rewrite(image, lambda document: document["tokens"].update({"0": token}))
    with pytest.raises(NotBound, match="not bound to the end"):
        check(image)
    done = bind(image)
    assert (done.slot, done.generation) == (2, 2)
    assert opens(image, b"second")
    unbind(image)
    assert opens(image, b"second")


def test_unbinding_a_pending_token_leaves_a_foreign_slot(image: Path, tmp_path: Path) -> None:
    luks.add_passphrase(image, b"second", tmp_path)
    token = luks.token_document(state="pending", keyslots=[], mac="", slot=1)
    luks.rewrite(image, lambda document: document["tokens"].update({"0": token}))
    assert unbind(image).slot is None
    assert opens(image, b"second")


def test_another_policy_is_not_bound_over_this_one(image: Path) -> None:
    bind(image)
    with pytest.raises(Conflict, match="bound with policy policy-a, not with policy-b"):
        bind(image, never, PASSPHRASE, "policy-b", "policy-a")
    with pytest.raises(Conflict, match="the configuration does not name"):
        unlocking.test(volume(image, "data", "policy-c"), fetch=never, deadline=deadline())
    done = luks.cryptsetup("luksKillSlot", str(image), "1", "--key-file", "-", stdin=PASSPHRASE)
    assert done.returncode == 0
    assert bind(image, FETCH, PASSPHRASE, "policy-b").key_id == "policy-b"


def test_a_pending_binding_with_another_policy_is_not_orphaned(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*_: object) -> Never:
        raise DiskError("cut off")

    with monkeypatch.context() as cut:
        cut.setattr(edits, "finish", cut_off)
        with pytest.raises(DiskError, match="cut off"):
            bind(image)
    with pytest.raises(Conflict, match="is pending with policy policy-a"):
        bind(image, never, PASSPHRASE, "policy-b", "policy-a")
    assert unbind(image).slot == 1
    assert bind(image, FETCH, PASSPHRASE, "policy-b", "policy-a").changed


def test_any_generation_the_disk_says_can_be_followed(image: Path) -> None:
    token = luks.token_document(state="pending", keyslots=[], mac="", slot=9, key_id="old", generation=2**32)
    luks.rewrite(image, lambda document: document["tokens"].update({"0": token}))
    assert bind(image).generation == 1


def test_the_token_chooses_among_configured_policies(image: Path) -> None:
    bind(image)
    asked: list[str] = []

    def fetch(policy_id: str, deadline: AnyDeadline) -> Secret:
        asked.append(policy_id)
        return Secret(SECRET)

    assert unlocking.test(volume(image, "data", "policy-b", "policy-a"), fetch=fetch, deadline=deadline()).slot == 1
    assert asked == ["policy-a"]


def test_another_secret_is_told_from_nothing_else(image: Path) -> None:
    bind(image)
    with pytest.raises(HeaderTampered):
        check(image, fetching(bytes(32)))
    with pytest.raises(HeaderTampered):
        bind(image, fetching(bytes(32)))


def test_damaged_key_material_is_named_and_can_be_bound_anew(image: Path) -> None:
    bind(image)
    area = metadata(image)["keyslots"]["1"]["area"]
    with image.open("r+b") as file:
        file.seek(int(area["offset"]))
        file.write(bytes(int(area["size"])))
    with pytest.raises(DiskError, match="does not open"):
        check(image)
    with pytest.raises(DiskError, match="does not open"):
        bind(image)
    assert unbind(image).slot == 1
    assert bind(image).changed
    assert check(image).slot == 1


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
            binding.bind(
                volume(image), ask=never, fetch=fetching(), deadline=Deadline(0.3, "test"), unmeasured_boot=True
            )
    assert bind(image).changed
