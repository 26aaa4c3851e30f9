"""Words for events, and what the digest says about them: covered, half covered, claimed, or false."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import FormatError, Oversized, Truncated
from tdx import event as ev
from tdx.event import Event
from tdx.eventdata import ALWAYS_COVERED, Coverage, coverage, variable
from tdx.eventpath import MAX_NODES, device_path
from tdx.eventread import ucs2
from tdx.eventwords import MAX_WORDS, words
from tests.unit.tdx import logs
from tests.unit.tdx.logs import END, FILE, path_node, sha384

DIGEST = b"\1" * 48


def event(kind: int, data: bytes, digest: bytes = DIGEST, name: str = "") -> Event:
    return Event(2, 0, kind, digest, data, name)


def utf16(text: str) -> bytes:
    return text.encode("utf-16-le")


def blob2(description: bytes) -> bytes:
    return bytes([len(description)]) + description + struct.pack("<QQ", 0xFFC00000, 540672)


def gpt(names: list[str], entry_size: int = 128) -> bytes:
    disk = UUID(int=7).bytes_le
    header = b"EFI PART" + bytes(48) + disk + bytes(8) + struct.pack("<III", len(names), entry_size, 0)
    entries = [bytes(56) + utf16(name).ljust(72, b"\0") for name in names]
    return header + struct.pack("<Q", len(names)) + b"".join(entry.ljust(entry_size, b"\0") for entry in entries)


LOAD_OPTION = struct.pack("<IH", 1, len(FILE + END)) + utf16("Debian\0") + FILE + END


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (ev.NO_ACTION, b"Spec ID Event03\0" + bytes(17), "Spec ID Event03"),
        (ev.NO_ACTION, b"\1\2", "0102"),
        (ev.SEPARATOR, bytes(4), "from here on the operating system's loader"),
        (ev.SEPARATOR, b"\1\0\0\0", "firmware error 01000000"),
        (ev.EFI_ACTION, b"Exit Boot Services Invocation", "Exit Boot Services Invocation"),
        (ev.HCRTM, b"HCRTM", "HCRTM"),
        (ev.CRTM_VERSION, utf16("1.0\0"), "1.0"),
        (ev.POST_CODE, b"", "no data"),
        (ev.CPU_MICROCODE, bytes(300), f"{bytes(32).hex()}... (300 bytes)"),
        (ev.VARIABLE_DRIVER_CONFIG, logs.variable("SecureBoot", b"\1"), "SecureBoot (EFI global): on"),
        (ev.VARIABLE_DRIVER_CONFIG, logs.variable("SecureBoot", b"\0"), "SecureBoot (EFI global): off"),
        (ev.VARIABLE_DRIVER_CONFIG, logs.variable("SecureBoot", b"\2"), "SecureBoot (EFI global): 02"),
        (ev.VARIABLE_DRIVER_CONFIG, logs.variable("PK", b""), "PK (EFI global): empty"),
        (ev.VARIABLE_DRIVER_CONFIG, logs.variable("db", bytes(1000), UUID(int=1).bytes_le), f"db ({UUID(int=1)}): 1000 bytes"),
        (ev.VARIABLE_AUTHORITY, logs.variable("SbatLevel", b"sbat,1,2023\n"), "SbatLevel (EFI global): sbat,1,2023\n"),
        (ev.VARIABLE_BOOT, logs.variable("BootOrder", b"\x0a\0\1\0"), "BootOrder (EFI global): 000A, 0001"),
        (ev.VARIABLE_BOOT2, logs.variable("Boot0001", LOAD_OPTION), "Boot0001: Debian, \\EFI\\x.efi"),
        (ev.VARIABLE_BOOT, logs.variable("Boot0001", b"\1"), "malformed (load option is truncated: attributes has 4 bytes at offset 0, 1 are there)"),
        (ev.VARIABLE_BOOT, logs.variable("Boot0001", bytes(6) + b"a\0b"), "malformed (the load option's description does not end)"),
        (ev.VARIABLE_BOOT, logs.variable("Boot0001", LOAD_OPTION[:6] + "\u0100\0".encode("utf-16-le") + END), "Boot0001: \u0100, "),
        (ev.BOOT_APPLICATION, logs.image(FILE + END), "\\EFI\\x.efi, 4096 bytes"),
        (ev.BOOT_DRIVER, logs.image(b""), "no device path, 4096 bytes"),
        (ev.BOOT_APPLICATION, logs.image(END)[:-1], "malformed (UEFI_IMAGE_LOAD_EVENT is truncated: device path has 4 bytes at offset 32, 3 are there)"),
        (ev.FIRMWARE_BLOB, struct.pack("<QQ", 0x1000, 16), "16 bytes at 0x1000"),
        (ev.FIRMWARE_BLOB2, blob2(b"Fv(X)\0"), "Fv(X), 540672 bytes at 0xffc00000"),
        (ev.HANDOFF_TABLES2, b"\x09TdxTable\0" + struct.pack("<Q", 1), "TdxTable, 1 table(s)"),
        (ev.GPT, gpt(["EFI", ""]), f"disk {UUID(int=7)}, 2 partitions: EFI, unnamed"),
        (ev.GPT, gpt(["EFI"], 64), "malformed (1 partitions of 64 bytes)"),
        (ev.GPT, gpt([""] * 129), "malformed (129 partitions of 128 bytes)"),
        (ev.EVENT_TAG, struct.pack("<II", 0x8F3B22EC, 12) + b"Linux initrd", "Linux: initrd: Linux initrd"),
        (ev.EVENT_TAG, struct.pack("<II", 0xF5BC582A, 24) + utf16("loader.conf\0"), "systemd-boot: loader.conf: loader.conf"),
        (ev.EVENT_TAG, struct.pack("<II", 7, 1) + b"\0", "tag 0x00000007: 00"),
        (ev.IPL, b"grub_cmd: linux /vmlinuz\0", "grub_cmd: linux /vmlinuz"),
        (ev.IPL, utf16("quiet ro\0"), "quiet ro"),
        (0x99, b"\xfftext", "ff74657874"),
    ],
)  # fmt: skip
def test_words(kind: int, data: bytes, said: str) -> None:
    assert words(event(kind, data)) == said


def test_names_and_limits() -> None:
    assert words(event(ev.DSTACK_RUNTIME, b"", name="boot-mr-done")) == "boot-mr-done"
    assert words(event(ev.DSTACK_RUNTIME, b"x", name="app")) == "app: x"
    assert words(event(ev.IPL, b"a" * 9000)) == "a" * MAX_WORDS + "..."
    assert event(0x99, b"").type_name == "0x00000099"
    assert event(ev.IPL, b"").type_name == "EV_IPL"


@given(st.sampled_from([*ev.NAMES, 0x99]), st.binary(max_size=200))
def test_words_and_coverage_of_anything(kind: int, data: bytes) -> None:
    made = event(kind, data)
    assert len(words(made)) <= MAX_WORDS + 3
    assert not coverage(made).measured


@pytest.mark.parametrize("kind", sorted(set(ev.NAMES) - {ev.NO_ACTION, ev.DSTACK_RUNTIME}))
def test_a_digest_of_the_data_covers_them_and_another_is_false_where_it_must(kind: int) -> None:
    made = event(kind, b"data", sha384(b"data"))
    assert coverage(made) is Coverage.DATA
    assert coverage(replace(made, data=b"Data")) is (Coverage.DIFFERS if kind in ALWAYS_COVERED else Coverage.NONE)


def test_what_is_not_extended_is_not_covered() -> None:
    assert coverage(event(ev.NO_ACTION, b"data", sha384(b"data"))) is Coverage.NOT_EXTENDED


def test_a_boot_variable_is_covered_in_its_value_only() -> None:
    data = logs.variable("BootOrder", b"\1\0")
    assert coverage(event(ev.VARIABLE_BOOT, data, sha384(b"\1\0"))) is Coverage.PART
    assert coverage(event(ev.VARIABLE_BOOT, data, sha384(data))) is Coverage.DATA
    renamed = logs.variable("BootNext", b"\1\0")
    assert coverage(event(ev.VARIABLE_BOOT, renamed, sha384(b"\1\0"))) is Coverage.PART
    assert coverage(event(ev.VARIABLE_BOOT, data, sha384(b"\2\0"))) is Coverage.DIFFERS
    assert coverage(event(ev.VARIABLE_BOOT, data[:-1], sha384(b"\1\0"))) is Coverage.DIFFERS
    assert coverage(event(ev.VARIABLE_DRIVER_CONFIG, data, sha384(b"\1\0"))) is Coverage.DIFFERS


def test_boot_loaders_texts() -> None:
    grub = b"grub_cmd: echo a: b\0"
    assert coverage(event(ev.IPL, grub, sha384(b"echo a: b"))) is Coverage.PART
    assert coverage(event(ev.IPL, grub, sha384(b"echo a: c"))) is Coverage.NONE
    assert coverage(event(ev.IPL, b"/grub.cfg\0", sha384(b"/grub.cfg"))) is Coverage.DATA
    section = utf16(".linux\0")
    assert coverage(event(ev.IPL, section, sha384(b".linux\0"))) is Coverage.DATA
    assert coverage(event(ev.IPL, section, sha384(b"the kernel"))) is Coverage.NONE
    assert coverage(event(ev.EVENT_TAG, section, sha384(b".linux\0"))) is Coverage.NONE


def test_dstack_s_events() -> None:
    def digest(name: bytes, payload: bytes) -> bytes:
        return sha384(struct.pack("<I", ev.DSTACK_RUNTIME) + b":" + name + b":" + payload)

    made = event(ev.DSTACK_RUNTIME, b"1:2", digest(b"app", b"1:2"), "app")
    assert coverage(made) is Coverage.DATA
    assert coverage(replace(made, name="App")) is Coverage.DIFFERS
    assert coverage(replace(made, data=b"")) is Coverage.DIFFERS
    # The same digest, read another way.
    assert coverage(replace(made, name="app:1", data=b"2")) is Coverage.NONE


def test_variable_data() -> None:
    data = logs.variable("ab", b"xyz")
    assert variable(data) == (str(UUID(bytes_le=logs.GLOBAL)), utf16("ab"), b"xyz")
    for size in range(len(data)):
        with pytest.raises(Truncated):
            variable(data[:size])
    with pytest.raises(Truncated):
        variable(data[:16] + struct.pack("<QQ", 1 << 63, 0) + data[32:])
    with pytest.raises(FormatError, match="not UCS-2"):
        ucs2(b"\0\xd8a")


GUID = UUID(int=1)
HD = struct.pack("<IQQ", 15, 0x2800, 0x35000)


@pytest.mark.parametrize(
    ("kind", "subtype", "body", "text"),
    [
        (1, 1, b"\0\x04", "Pci(0x4,0x0)"),
        (1, 3, struct.pack("<IQQ", 1, 2, 3), "MemoryMapped(0x1,0x2,0x3)"),
        (1, 4, GUID.bytes_le, f"VenHw({GUID})"),
        (2, 1, struct.pack("<II", 0x0A0341D0, 0), "PciRoot(0x0)"),
        (2, 1, struct.pack("<II", 0x050141D0, 1), "Acpi(PNP0501,0x1)"),
        (2, 1, struct.pack("<II", 0x12345678, 1), "Acpi(0x12345678,0x1)"),
        (3, 1, b"\0\1\2\0", "Ata(0x0,0x1,0x2)"),
        (3, 2, struct.pack("<HH", 1, 2), "Scsi(0x1,0x2)"),
        (3, 5, b"\1\2", "USB(0x1,0x2)"),
        (3, 10, GUID.bytes_le, f"VenMsg({GUID})"),
        (3, 11, bytes.fromhex("525400123456").ljust(32, b"\0") + b"\1", "MAC(525400123456,0x1)"),
        (3, 12, bytes(15), "IPv4"),
        (3, 13, bytes(56), "IPv6"),
        (3, 18, struct.pack("<HHH", 1, 0xFFFF, 0), "Sata(0x1,0xffff,0x0)"),
        (3, 23, struct.pack("<I", 1) + bytes(range(8)), "NVMe(0x1,07-06-05-04-03-02-01-00)"),
        (3, 24, b"https://x", "Uri(https://x)"),
        (4, 1, HD + GUID.bytes_le + b"\2\2", f"HD(15,GPT,{GUID},0x2800,0x35000)"),
        (4, 1, HD + struct.pack("<I", 0xABCD) + bytes(12) + b"\1\1", "HD(15,MBR,0x0000abcd,0x2800,0x35000)"),
        (4, 2, struct.pack("<IQQ", 1, 2, 3), "CDROM(0x1,0x2,0x3)"),
        (4, 3, UUID("1428f772-b64a-441e-b8c3-9ebdd7f893c7").bytes_le, "VenMedia(QEMU kernel loader)"),
        (4, 4, utf16("\\a\0"), "\\a"),
        (4, 6, GUID.bytes_le, f"FvFile({GUID})"),
        (4, 7, GUID.bytes_le, f"Fv({GUID})"),
        (4, 7, b"\1", "Path(4,7,01)"),
        (4, 4, b"\0\xd8a", "Path(4,4,00d861)"),
        (9, 9, b"\1\2", "Path(9,9,0102)"),
        (0x7F, 1, b"", ","),
    ],
)
def test_device_path_nodes(kind: int, subtype: int, body: bytes, text: str) -> None:
    node = path_node(kind, subtype, body)
    assert device_path(node + END) == device_path(node) == text
    assert device_path(node + FILE + END) == f"{text}/\\EFI\\x.efi"


def test_device_paths_are_bounded() -> None:
    with pytest.raises(FormatError, match="a node of 3 bytes"):
        device_path(b"\4\4\3\0")
    with pytest.raises(Truncated):
        device_path(b"\4\4\xff\xff")
    with pytest.raises(Oversized):
        device_path(FILE * (MAX_NODES + 1))
    assert device_path(b"") == ""
