"""What the quoter does beside evidence for the signer: wrapping keys that it is told of, and the chip's derived key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.canonical import b64
from agent.core.config import EvidenceConfig, parse
from agent.core.errors import Denied, DeviceMissing, PlatformError
from agent.core.model import Tee
from agent.core.ports import Deadline as AnyDeadline
from agent.daemon import quoter
from agent.daemon.peers import Caller
from agent.daemon.quoter import DERIVED_FIELDS, MAX_ANNOUNCED, Derive, Desk
from agent.deadline import Deadline
from agent.device.sev import SevGuestSource
from agent.diagnosis import Host
from agent.probe import derived_key_source
from agent.quotelock import QuoteLock
from sim.faults import Faults, FaultyProvider
from sim.psp import GuestOptions
from sim.sev_guest import SevGuest
from tests.support.cuse import kernel
from tests.support.quotes import FakeQuotes
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
FETCHER, ROOT = Caller(1, 20, 20, (), ""), Caller(1, 0, 0, (), "")
SIGNER = Caller(1, 10, 10, (), "")
NONCE = "ab" * 32


def tas(key: bytes) -> dict[str, Any]:
    return {"nonce": NONCE, "wrapping_key": b64(key)}


def test_the_fetcher_gets_evidence_over_announced_keys_only() -> None:
    quotes = FakeQuotes()

    async def body() -> None:
        desk = Desk(quotes, 30)
        with pytest.raises(Denied) as caught:
            await desk.tas(tas(b"its own"), FETCHER)
        assert caught.value.code == "denied.wrapping-key"
        assert quotes.asked == []
        await desk.announce({"wrapping_key": b64(b"signer's")}, SIGNER)
        with pytest.raises(Denied):
            await desk.tas(tas(b"its own"), FETCHER)
        await desk.tas(tas(b"signer's"), FETCHER)
        await desk.tas(tas(b"root's"), ROOT)
        assert [key for _, _, key in quotes.asked] == [b"signer's", b"root's"]

    asyncio.run(body())


def test_old_announcements_are_forgotten() -> None:
    async def body() -> None:
        desk = Desk(FakeQuotes(), 30)
        for number in range(MAX_ANNOUNCED + 1):
            await desk.announce({"wrapping_key": b64(b"key %d" % number)}, SIGNER)
        with pytest.raises(Denied):
            await desk.tas(tas(b"key 0"), FETCHER)
        await desk.tas(tas(b"key 1"), FETCHER)
        assert len(desk._announced) == MAX_ANNOUNCED

    asyncio.run(body())


def test_no_derived_key_where_none_is_configured() -> None:
    async def body() -> None:
        with pytest.raises(Denied) as caught:
            await Desk(FakeQuotes(), 30).derived_key({}, SIGNER)
        assert caught.value.code == "denied.derived-key"

    asyncio.run(body())


Chip = Callable[..., Derive]


@pytest.fixture
def chip(pki_state: Path, tmp_path: Path) -> Chip:
    """The quoter's way to a simulated secure processor, for a guest with these options."""

    def make(secret: bytes = b"s" * 32, **options: Any) -> Derive:
        hardware, faults = machine("snp", pki_state, GuestOptions(**options)), Faults()
        plugged = kernel(SevGuest(FaultyProvider(hardware, faults), faults, secret))

        def ioctl(fd: int, command: int, argument: bytearray) -> None:
            plugged.ioctl(fd, command, argument)

        lock = QuoteLock(tmp_path / "lock")
        source = SevGuestSource(Path("/dev/null"), lock, vmpl_file=tmp_path / "vmpl", ioctl=ioctl)
        return lambda deadline: source.derived_key(DERIVED_FIELDS, deadline=deadline)

    return make


def key(derive: Derive) -> bytes:
    """What the signer gets."""
    desk = Desk(FakeQuotes(), 30, derive)
    answer = asyncio.run(desk.derived_key({}, SIGNER))
    assert answer.keys() == {"key"}
    found = hashlib.sha256(str(answer["key"]).encode()).digest()
    assert len(answer["key"]) == 44
    return found


@pytest.mark.root
def test_a_derived_key_is_the_chip_s_and_the_measurement_s(chip: Chip) -> None:
    one = key(chip())
    assert key(chip()) == one
    others = [
        key(chip(b"t" * 32)),
        key(chip(measurement=bytes(48))),
        key(chip(id_block={"family_id": b"f" * 16})),
        key(chip(id_block={"image_id": b"i" * 16})),
        key(chip(debug=True)),
    ]
    assert len({one, *others}) == len(others) + 1


@pytest.mark.root
def test_what_the_firmware_gives_does_not_leave_the_quoter(chip: Chip) -> None:
    derive = chip()
    with derive(Deadline(30, "test")) as secret:
        raw = bytes(secret.reveal())
    answer = asyncio.run(Desk(FakeQuotes(), 30, derive).derived_key({}, SIGNER))
    assert answer["key"] != b64(raw)
    extracted = hmac.digest(bytes(32), raw, "sha256")
    assert answer["key"] == b64(hmac.digest(extracted, b"tee-agent/v1\0sealing-derived\0\x01", "sha256"))


def test_the_measurement_is_always_selected() -> None:
    assert "measurement" in DERIVED_FIELDS


def test_tdx_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"intel-tdx .* derives") as caught:
        derived_key_source(EvidenceConfig(), Tee.TDX)
    assert caught.value.exit_status == 69
    assert "snp-derived" in caught.value.hint


def test_without_the_driver_s_device_it_is_said(tmp_path: Path) -> None:
    config = EvidenceConfig(sev_device=tmp_path / "none", lock_file=tmp_path / "lock")
    with pytest.raises(DeviceMissing) as caught:
        derived_key_source(config, Tee.SNP, Host(sys=tmp_path, dev=tmp_path))
    assert caught.value.exit_status == 69
    assert "snp-derived" in caught.value.hint


@pytest.mark.parametrize(("text", "asked"), [("", 0), ('[sealing]\nroot = "snp-derived"\n', 1)])
def test_the_device_is_looked_for_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, text: str, asked: int
) -> None:
    seen: list[Tee] = []

    class Keys:
        def derived_key(self, fields: tuple[str, ...], *, deadline: AnyDeadline) -> tuple[str, ...]:
            return fields

    def look(_config: EvidenceConfig, tee: Tee) -> Keys:
        seen.append(tee)
        return Keys()

    monkeypatch.setattr(quoter, "find_source", lambda _: (Tee.SNP, FakeQuotes()))
    monkeypatch.setattr(quoter, "derived_key_source", look)
    _, derive = quoter._find(parse(text, "f"))
    assert len(seen) == asked
    assert (derive is not None) == bool(asked)
