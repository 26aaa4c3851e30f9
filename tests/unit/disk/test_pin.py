"""What pins a volume: its UUID, data segment and volume key; not its passphrases."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import HeaderTampered
from agent.disk import pin
from tests.support import luks

VOLUME = luks.volume(Path("/dev/x"))


def more_passphrases(document: dict[str, Any]) -> None:
    document["keyslots"]["2"] = luks.keyslot(2)
    document["digests"]["0"]["keyslots"].append("2")


def no_token(document: dict[str, Any]) -> None:
    document["tokens"] = {}


def other_key(document: dict[str, Any]) -> None:
    document["digests"]["0"]["digest"] = base64.b64encode(bytes(32)).decode()


def other_salt(document: dict[str, Any]) -> None:
    document["digests"]["0"]["salt"] = base64.b64encode(b"\1" * 32).decode()


def other_sectors(document: dict[str, Any]) -> None:
    document["segments"]["0"]["sector_size"] = 512


@pytest.mark.parametrize("change", [more_passphrases, no_token])
def test_passphrases_come_and_go(change: Callable[[dict[str, Any]], None]) -> None:
    assert pin.of(luks.sample_header(change)) == pin.of(luks.sample_header())


@pytest.mark.parametrize("change", [other_key, other_salt, other_sectors])
def test_another_volume_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    pinned = replace(VOLUME, volume_key=pin.of(luks.sample_header()))
    assert pin.verify(pinned, luks.sample_header())
    with pytest.raises(HeaderTampered) as caught:
        pin.verify(pinned, luks.sample_header(change))
    assert caught.value.code == "disk.tampered.pin"


def test_without_a_pin_nothing_is_known() -> None:
    assert pin.verify(VOLUME, luks.sample_header()) is False
