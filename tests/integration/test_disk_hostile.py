"""Headers as a hostile host would write them, on real images: refused before cryptsetup or a passphrase is involved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import pytest

from agent import run as door
from agent.core.config import VolumeConfig
from agent.core.errors import Denied, DiskError, HeaderRefused, HeaderTampered
from agent.core.model import Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.disk import bind as binding
from agent.disk import cryptsetup as program
from agent.disk import device as devices
from agent.disk import unbind as unbinding
from agent.disk import unlock as unlocking
from tests.support import luks
from tests.support.binds import FETCH, bind, check, deadline
from tests.support.luks import PASSPHRASE, SECRET, Change, asking, at, metadata, opens, volume

HEADER_BYTES = 32768
pytestmark = luks.needs_cryptsetup


@pytest.fixture
def bound(image: Path) -> Path:
    bind(image)
    return image


@pytest.fixture
def no_cryptsetup(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the moment it is called, running cryptsetup is a failure of the test."""

    def never(argv: tuple[str, ...], **_: object) -> Never:
        pytest.fail(f"cryptsetup was run: {argv}")

    return lambda: monkeypatch.setattr(program, "run", never)


HUGE = {"type": "argon2id", "time": 2**31, "memory": 2**31, "cpus": 4, "salt": luks.b64(bytes(32))}
REFUSED: dict[str, tuple[Change, str]] = {
    "null segment cipher": (at("segments", "0", "encryption", to="cipher_null-ecb"), "disk.header.null-cipher"),
    "null cipher of our keyslot": (
        at("keyslots", "1", "area", "encryption", to="cipher_null-ecb"),
        "disk.header.null-cipher",
    ),
    "null cipher of a foreign keyslot": (
        at("keyslots", "0", "area", "encryption", to="cipher_null-ecb"),
        "disk.header.null-cipher",
    ),
    "re-encryption": (
        at("config", "requirements", to={"mandatory": ["online-reencrypt-v2"]}),
        "disk.header.reencrypt",
    ),
    "huge argon2": (at("keyslots", "0", "kdf", to=HUGE), "disk.header.cost"),
    "unknown field": (at("keyslots", "0", "backdoor", to=1), "disk.header.metadata"),
    "area out of bounds": (at("keyslots", "1", "area", "offset", to="1099511627776"), "disk.header.bounds"),
    "data beyond the device": (at("segments", "0", "offset", to="1099511627776"), "disk.header.bounds"),
}


@pytest.mark.parametrize(("change", "code"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_runs(
    bound: Path, no_cryptsetup: Callable[[], None], change: Change, code: str
) -> None:
    luks.rewrite(bound, change)
    before = bound.read_bytes()
    no_cryptsetup()

    def never(*_: object) -> Never:
        pytest.fail("a secret or passphrase was asked for")

    for action in (
        lambda: check(bound, never),
        lambda: unlocking.unlock(volume(bound), fetch=never, deadline=deadline()),
        lambda: binding.bind(volume(bound), ask=never, fetch=never, deadline=deadline(), unmeasured_boot=True),
        lambda: unbinding.unbind(volume(bound), ask=never, fetch=never, deadline=deadline()),
    ):
        with pytest.raises(HeaderRefused) as caught:
            action()
        assert caught.value.code == code
    assert bound.read_bytes() == before


def test_a_volume_under_real_reencryption_is_refused(image: Path) -> None:
    options = ["--init-only", *luks.CHEAP, "--key-file", "-"]
    assert luks.cryptsetup("reencrypt", *options, str(image), stdin=PASSPHRASE).returncode == 0
    with pytest.raises(HeaderRefused, match="re-encryption"):
        bind(image)


def test_real_luks1_is_refused_by_name(tmp_path: Path) -> None:
    image = tmp_path / "one.img"
    with image.open("wb") as file:
        file.truncate(luks.IMAGE_BYTES)
    options = ["--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "-"]
    assert luks.cryptsetup("luksFormat", *options, str(image), stdin=PASSPHRASE).returncode == 0
    with pytest.raises(HeaderRefused, match="LUKS1 is not supported"):
        bind(image)


def test_real_dm_integrity_is_refused_by_name(image: Path) -> None:
    luks.rewrite(image, at("segments", "0", "integrity", to={"type": "hmac(sha256)", "journal_encryption": "none"}))
    with pytest.raises(HeaderRefused, match="dm-integrity"):
        bind(image)


@pytest.mark.parametrize("damage", [b"", b"\0" * 8, b"\xff" * 8])
def test_broken_checksums(bound: Path, damage: bytes) -> None:
    with bound.open("r+b") as file:
        if not damage:
            file.truncate(HEADER_BYTES // 2)
        for start in (0, HEADER_BYTES // 2):
            file.seek(start + 5000)
            file.write(damage)
    with pytest.raises(HeaderRefused):
        check(bound)


def test_one_broken_copy_is_survived_and_mended_by_the_next_edit(bound: Path) -> None:
    with bound.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff" * 8)
    assert check(bound).slot == 1
    assert unbinding.unbind(volume(bound), ask=asking(), fetch=FETCH, deadline=deadline()).slot == 1
    assert opens(bound)
    with devices.opened(str(bound)) as device:
        assert device.header().intact


def host_made(image: Path, tmp_path: Path) -> Path:
    """A volume whose key the host knows, dressed up as ``image``: its UUID, slot numbers and our token."""
    fake = luks.make_image(tmp_path / "fake.img", "--uuid", str(uuid_of(image)))
    luks.add_passphrase(fake, b"known to the host", tmp_path)
    token = metadata(image)["tokens"]["0"]
    luks.rewrite(fake, lambda document: document["tokens"].update({"0": token}))
    return fake


def uuid_of(image: Path) -> str:
    with devices.opened(str(image)) as device:
        return device.header().uuid


def test_a_host_made_volume_with_our_token_is_refused(
    bound: Path, tmp_path: Path, no_cryptsetup: Callable[[], None]
) -> None:
    fake = host_made(bound, tmp_path)
    no_cryptsetup()
    with pytest.raises(HeaderTampered, match="is not the one that was bound"):
        check(fake)
    with pytest.raises(HeaderTampered):
        bind(fake)
    with pytest.raises(HeaderTampered):
        unbinding.unbind(volume(fake), ask=asking(), fetch=FETCH, deadline=deadline())


def test_our_slot_grafted_onto_a_host_made_volume_is_refused(bound: Path, tmp_path: Path) -> None:
    # Our keyslot and its material are genuine: what differs is the volume's digest.
    fake, genuine = host_made(bound, tmp_path), metadata(bound)
    slot = genuine["keyslots"]["1"]
    luks.rewrite(fake, lambda document: document["keyslots"].update({"1": slot}))
    start, size = int(slot["area"]["offset"]), int(slot["area"]["size"])
    with bound.open("rb") as source, fake.open("r+b") as target:
        source.seek(start)
        target.seek(start)
        target.write(source.read(size))
    with pytest.raises(HeaderTampered):
        check(fake)


def test_another_bound_volume_in_its_place_is_refused_by_uuid(bound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both were bound under one policy: only the configured UUID tells them apart.
    by_uuid = bound.parent / "by-uuid"
    by_uuid.mkdir()
    monkeypatch.setattr(devices, "BY_UUID", by_uuid)
    wanted = "11111111-2222-3333-4444-555555555555"
    (by_uuid / wanted).symlink_to(bound)
    config = VolumeConfig("data", f"UUID={wanted}", (luks.POLICY,))
    with pytest.raises(HeaderTampered, match="the configuration wants"):
        unlocking.test(config, fetch=FETCH, deadline=deadline())
    (by_uuid / uuid_of(bound)).symlink_to(bound)
    genuine = VolumeConfig("data", f"UUID={uuid_of(bound).upper()}", (luks.POLICY,))
    assert unlocking.test(genuine, fetch=FETCH, deadline=deadline()).slot == 1


def test_the_header_on_disk_is_not_read_again(bound: Path) -> None:
    # While the secret is on its way, the host puts a null cipher in place: the copy in RAM is what opens.
    def fetch(policy_id: str, deadline: AnyDeadline) -> Secret:
        luks.rewrite(bound, at("segments", "0", "encryption", to="cipher_null-ecb"))
        return Secret(SECRET)

    assert check(bound, fetch).slot == 1
    with pytest.raises(HeaderRefused):
        check(bound)


def test_a_digest_of_another_key_takes_no_passphrase(image: Path) -> None:
    luks.rewrite(image, at("digests", "0", "digest", to=luks.b64(bytes(32))))
    before = image.read_bytes()
    with pytest.raises(Denied, match="opens no keyslot"):
        bind(image)
    assert image.read_bytes() == before


def after(action: str, image: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The host strikes right after cryptsetup's ``action``."""
    real = door.run

    def striking(argv: tuple[str, ...], **options: Any) -> door.Completed:
        done = real(argv, **options)
        if argv[1] == action:
            monkeypatch.setattr(program, "run", real)
            change(image)
        return done

    monkeypatch.setattr(program, "run", striking)


STRIKES: dict[str, Change] = {
    "segment moved": at("segments", "0", "offset", to="16781312"),
    "foreign token": at("tokens", "9", to={"type": "x", "keyslots": []}),
    "our slot made dear": at("keyslots", "1", "kdf", "iterations", to=2000),
    "foreign slot changed": at("keyslots", "0", "priority", to=2),
}


@pytest.mark.parametrize("change", STRIKES.values(), ids=STRIKES)
@pytest.mark.parametrize("action", ["luksAddKey", "token"])
def test_a_header_changed_under_our_edit(
    image: Path, monkeypatch: pytest.MonkeyPatch, action: str, change: Change
) -> None:
    if action == "token" and change is STRIKES["our slot made dear"]:
        # The first token is written before there is a slot: nothing to change yet.
        change = at("keyslots", "0", "kdf", "iterations", to=2000)
    after(action, image, lambda path: luks.rewrite(path, change), monkeypatch)
    with pytest.raises(HeaderTampered, match="not what our edit should have left"):
        bind(image)
    if change is not STRIKES["our slot made dear"]:
        assert "1" not in metadata(image)["keyslots"]


def test_a_refused_header_after_our_edit_says_what_may_be_left(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    null = at("segments", "0", "encryption", to="cipher_null-ecb")
    after("luksAddKey", image, lambda path: luks.rewrite(path, null), monkeypatch)
    with pytest.raises(HeaderRefused) as caught:
        bind(image)
    assert caught.value.code == "disk.header.null-cipher"
    assert "our keyslot 1 may still be there" in caught.value.hint


def test_key_material_spoiled_under_our_edit(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(path: Path) -> None:
        area = metadata(path)["keyslots"]["1"]["area"]
        with path.open("r+b") as file:
            file.seek(int(area["offset"]))
            file.write(bytes(4096))

    after("luksAddKey", image, spoil, monkeypatch)
    with pytest.raises(HeaderTampered, match="the new keyslot 1 does not open"):
        bind(image)
    assert opens(image)


def test_a_full_header_is_named(image: Path) -> None:
    tokens = {str(number): {"type": "x", "keyslots": []} for number in range(32)}
    luks.rewrite(image, at("tokens", to=tokens))
    with pytest.raises(DiskError, match="no free token"):
        bind(image)


def test_a_volume_exchanged_during_the_edit(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = luks.make_image(tmp_path / "other.img").read_bytes()[:HEADER_BYTES]

    def exchange(path: Path) -> None:
        with path.open("r+b") as file:
            file.write(other)

    after("luksAddKey", image, exchange, monkeypatch)
    with pytest.raises(HeaderTampered, match="exchanged"):
        bind(image)
