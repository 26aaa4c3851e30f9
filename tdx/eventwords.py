"""Events in words, for people who read a log. Words are not evidence: see tdx.eventdata for what the digest covers.

Sources: TCG PC Client Platform Firmware Profile Specification 1.06, section 10; UEFI 2.10, sections 3.1.3 (load
options), 5.3 (GPT), 38; the tags of the Linux EFI stub and of systemd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.core.errors import FormatError
from tdx import event as ev
from tdx.event import Event
from tdx.eventdata import variable
from tdx.eventpath import device_path
from tdx.eventread import Cursor, text_of, ucs2

MAX_WORDS = 4096
"""Characters at the most; a kernel's command line has 2048."""
_MAX_GUESSED = 256
_MAX_ENTRIES = 128
_GPT_HEADER = 92

TAGS: Mapping[int, str] = {
    0x8F3B22EC: "Linux: initrd",
    0x8F3B22ED: "Linux: command line",
    0xF5BC582A: "systemd-boot: loader.conf",
    0x6C46F751: "systemd-stub: device tree",
    0x49DFFE0F: "systemd-stub: initrd",
    0xDAC08E1A: "systemd-stub: microcode",
    0x13AED6DB: "systemd-stub: profile",
}
GUIDS: Mapping[str, str] = {
    "8be4df61-93ca-11d2-aa0d-00e098032b8c": "EFI global",
    "d719b2cb-3d3a-4596-a3bc-dad00e67656f": "image security",
    "605dab50-e046-4300-abb6-3dd810dd8b23": "shim",
    "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f": "systemd-boot",
}


def words(event: Event) -> str:
    """What the data says; never raises: data that does not have its type's form is called malformed."""
    if event.name:
        return f"{event.name}: {_payload(event.data)}" if event.data else event.name
    try:
        text = _WORDS.get(event.kind, _payload)(event.data)
    except FormatError as error:
        text = f"malformed ({error.message})"
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}..."


def _payload(data: bytes) -> str:
    """Text where it is text, the beginning in hex where it is not."""
    if (text := text_of(data)) is not None:
        return text
    if len(data) <= _MAX_GUESSED:
        return data.hex() or "no data"
    return f"{data[:32].hex()}... ({len(data)} bytes)"


def _variable(data: bytes) -> str:
    guid, raw_name, value = variable(data)
    name, owner = ucs2(raw_name), GUIDS.get(guid, guid)
    return f"{name} ({owner}): {_variable_value(name, value)}"


def _variable_value(name: str, value: bytes) -> str:
    if not value:
        return "empty"
    if name == "SecureBoot":
        return {b"\0": "off", b"\1": "on"}.get(value, value.hex())
    if name == "BootOrder":
        listed = value[: 2 * _MAX_ENTRIES]
        return ", ".join(f"{listed[at + 1]:02X}{listed[at]:02X}" for at in range(0, len(listed) - 1, 2))
    if (text := text_of(value)) is not None and len(text) <= _MAX_GUESSED:
        return text
    return value.hex() if len(value) <= 8 else f"{len(value)} bytes"


def _boot_variable(data: bytes) -> str:
    name, value = ucs2(variable(data)[1]), variable(data)[2]
    if not value or not name.startswith("Boot") or len(name) != len("Boot0000"):
        return _variable(data)
    option = Cursor(value, "load option")
    option.number(4, "attributes")
    size = option.number(2, "path length")
    text = option.rest()
    end = text.find(b"\0\0")
    while end % 2 and end > 0:
        end = text.find(b"\0\0", end + 1)
    if end < 0:
        raise FormatError("the load option's description does not end", record="load option")
    return f"{name}: {ucs2(text[:end])}, {device_path(text[end + 2 : end + 2 + size])}"


def _image(data: bytes) -> str:
    """UEFI_IMAGE_LOAD_EVENT."""
    cursor = Cursor(data, "UEFI_IMAGE_LOAD_EVENT")
    cursor.number(8, "location")
    size = cursor.number(8, "length")
    cursor.number(8, "link address")
    path = device_path(cursor.take(cursor.number(8, "device path length"), "device path"))
    return f"{path or 'no device path'}, {size} bytes"


def _gpt(data: bytes) -> str:
    """UEFI_GPT_DATA: the disk's and the used partitions' GUIDs and names."""
    cursor = Cursor(data, "UEFI_GPT_DATA")
    header = Cursor(cursor.take(_GPT_HEADER, "header"), "GPT header", 56)
    entry_size = int.from_bytes(header.data[84:88], "little")
    count = cursor.number(8, "partition count")
    if count > _MAX_ENTRIES or not _MAX_ENTRIES <= entry_size <= 4096:
        raise FormatError(f"{count} partitions of {entry_size} bytes", record="UEFI_GPT_DATA")
    entries = [cursor.take(entry_size, "partition") for _ in range(count)]
    named = ", ".join(ucs2(entry[56:128]) or "unnamed" for entry in entries)
    return f"disk {header.guid('disk GUID')}, {count} partitions: {named}"


def _tag(data: bytes) -> str:
    """TCG_PCClientTaggedEvent."""
    cursor = Cursor(data, "tagged event")
    tag = cursor.number(4, "tag")
    text = _payload(cursor.take(cursor.number(4, "size"), "event"))
    return f"{TAGS.get(tag, f'tag 0x{tag:08x}')}: {text}"


def _separator(data: bytes) -> str:
    return "from here on the operating system's loader" if not any(data) else f"firmware error {data[:64].hex()}"


def _blob(data: bytes) -> str:
    """UEFI_PLATFORM_FIRMWARE_BLOB."""
    cursor = Cursor(data, "firmware blob")
    return _range(cursor)


def _blob2(data: bytes) -> str:
    """UEFI_PLATFORM_FIRMWARE_BLOB2: with a description before it."""
    cursor = Cursor(data, "firmware blob")
    description = _payload(cursor.take(cursor.number(1, "description size"), "description"))
    return f"{description}, {_range(cursor)}"


def _range(cursor: Cursor) -> str:
    base, size = cursor.number(8, "base"), cursor.number(8, "length")
    return f"{size} bytes at 0x{base:x}"


def _tables2(data: bytes) -> str:
    """UEFI_HANDOFF_TABLE_POINTERS2."""
    cursor = Cursor(data, "hand-off tables")
    description = cursor.take(cursor.number(1, "description size"), "description")
    return f"{_payload(description.rstrip(bytes(1)))}, {cursor.number(8, 'count')} table(s)"


def _no_action(data: bytes) -> str:
    signature = data[:16].rstrip(b"\0")
    return text_of(signature) or _payload(data)


_WORDS: Mapping[int, Callable[[bytes], str]] = {
    ev.NO_ACTION: _no_action,
    ev.SEPARATOR: _separator,
    ev.EVENT_TAG: _tag,
    ev.VARIABLE_DRIVER_CONFIG: _variable,
    ev.VARIABLE_AUTHORITY: _variable,
    ev.VARIABLE_BOOT: _boot_variable,
    ev.VARIABLE_BOOT2: _boot_variable,
    ev.BOOT_APPLICATION: _image,
    ev.BOOT_DRIVER: _image,
    ev.RUNTIME_DRIVER: _image,
    ev.GPT: _gpt,
    ev.GPT2: _gpt,
    ev.FIRMWARE_BLOB: _blob,
    ev.FIRMWARE_BLOB2: _blob2,
    ev.HANDOFF_TABLES2: _tables2,
}
