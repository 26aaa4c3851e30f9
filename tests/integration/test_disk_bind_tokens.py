"""What the token on the disk may say, stale, pending and of another policy, and what then is bound, opened or left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import pytest

from agent.core.errors import Conflict, DiskError, HeaderTampered, NotBound
from agent.core.model import Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.disk import edits
from agent.disk import unlock as unlocking
from tests.support import luks
from tests.support.binds import FETCH, bind, check, deadline, never, unbind
from tests.support.luks import PASSPHRASE, SECRET, fetching, metadata, opens, volume

pytestmark = luks.needs_cryptsetup


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
