"""Every genuine event log: the RTMRs that it replays to, what its digests cover, and the quote that it explains."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.verify.eventlog import judge, log_json, quote_registers
from tdx import ccel, eventlog
from tdx.event import Event
from tdx.eventdata import Coverage, coverage
from tdx.eventwords import words
from tests.support import vectors

CASES = vectors.cases("eventlog")
WITH_QUOTE = [case for case in CASES if case.id in {"dstack-json", "gcp-cos113-ccel", "absent"}]
CLAIMED = {
    "EV_NO_ACTION",
    "EV_EFI_HANDOFF_TABLES2",
    "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    "EV_PLATFORM_CONFIG_FLAGS",
    "EV_EFI_BOOT_SERVICES_APPLICATION",
    "EV_EVENT_TAG",
}


def data_of(folder: Path) -> bytes:
    (path,) = [folder / name for name in ("ccel.bin", "event_log.json") if (folder / name).exists()]
    return path.read_bytes()


def events(folder: Path) -> tuple[Event, ...]:
    return eventlog.parse(data_of(folder)).events


def registers(folder: Path) -> dict[int, bytes]:
    expected = vectors.meta(folder)["expected"]
    return {index: bytes.fromhex(expected[f"rtmr{index}"]) for index in range(4)}


@pytest.mark.parametrize("folder", CASES)
def test_replay(folder: Path) -> None:
    found = events(folder)
    assert sum(event.extended for event in found) == vectors.meta(folder)["expected"]["event_count"]
    assert eventlog.replay(found) == registers(folder)
    assert judge(data_of(folder), registers(folder)).ok


@pytest.mark.parametrize("folder", WITH_QUOTE)
def test_explains_its_quote(folder: Path) -> None:
    quote = vectors.ROOT / vectors.meta(folder)["quote"] / "quote.bin"
    verdicts = eventlog.compare(events(folder), quote_registers(quote.read_bytes()))
    wanted = ["matches" if any(e.register == index for e in events(folder)) else "no events" for index in range(4)]
    assert [verdict.status for verdict in verdicts] == wanted


@pytest.mark.parametrize("folder", CASES)
def test_no_event_less_and_none_in_another_order(folder: Path) -> None:
    found = [event for event in events(folder) if event.extended]
    wanted = registers(folder)
    for at in range(len(found)):
        assert eventlog.replay(found[:at] + found[at + 1 :]) != wanted
        if at and found[at].register == found[at - 1].register and found[at].digest != found[at - 1].digest:
            swapped = [*found[: at - 1], found[at], found[at - 1], *found[at + 1 :]]
            assert eventlog.replay(swapped) != wanted


@pytest.mark.parametrize("folder", CASES)
def test_what_the_digests_cover(folder: Path) -> None:
    for event in events(folder):
        state = coverage(event)
        assert state is not Coverage.DIFFERS
        if event.type_name != "EV_IPL":
            assert state.measured == (event.type_name not in CLAIMED), event.type_name
        elif event.data.startswith((b"grub_cmd: ", b"kernel_cmdline: ")):
            assert state is Coverage.PART
        else:
            assert state is Coverage.NONE, event.data


@pytest.mark.parametrize("folder", CASES)
def test_words(folder: Path) -> None:
    assert [words(event) for event in events(folder) if "malformed" in words(event)] == []
    said = {event["words"] for event in log_json(eventlog.parse(data_of(folder)))["events"]}
    assert any(text.startswith("SecureBoot (EFI global): ") for text in said)
    assert "TdxTable, 1 table(s)" in said
    special = {
        "gcp-cos113-ccel": "\\EFI\\BOOT\\grub-lakitu.efi, 743168 bytes",
        "grub-ccel": "\\EFI\\ubuntu\\grubx64.efi, 2656136 bytes",
        "ovmf-ccel": "VenMedia(QEMU kernel loader)/kernel, 10854912 bytes",
        "dstack-json": "instance-id: c3714eb66990eace777b4e664c16e09375dec4c9",
    }
    assert special[folder.name] in said


@pytest.mark.parametrize("folder", [case for case in CASES if case.id != "dstack-json"])
def test_written_back(folder: Path) -> None:
    area = data_of(folder)
    assert ccel.build(ccel.parse(area)[1:], len(area))[65:] == area[65:]


@pytest.mark.parametrize("folder", [case for case in CASES if case.id in {"gcp-cos113-ccel", "absent"}])
def test_acpi_table(folder: Path) -> None:
    table = ccel.Table.parse((folder / "ccel_table.bin").read_bytes())
    assert table.log_length == len(data_of(folder))
