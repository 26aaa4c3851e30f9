"""One event of a boot's log, whichever form the log had.

Sources: TCG PC Client Platform Firmware Profile Specification 1.06, section 10 (event types, data and digests);
UEFI 2.10, section 38 (confidential computing measurement: index 0 is MRTD, 1 to 4 are RTMR0 to RTMR3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DIGEST_SIZE = 48
"""Bytes of a SHA-384 digest and of an RTMR."""
REGISTERS = (0, 1, 2, 3)

PREBOOT_CERT = 0x0
POST_CODE = 0x1
NO_ACTION = 0x3
SEPARATOR = 0x4
ACTION = 0x5
EVENT_TAG = 0x6
CRTM_CONTENTS = 0x7
CRTM_VERSION = 0x8
CPU_MICROCODE = 0x9
PLATFORM_CONFIG_FLAGS = 0xA
TABLE_OF_DEVICES = 0xB
COMPACT_HASH = 0xC
IPL = 0xD
IPL_PARTITION_DATA = 0xE
NONHOST_CODE = 0xF
NONHOST_CONFIG = 0x10
NONHOST_INFO = 0x11
OMIT_BOOT_DEVICE_EVENTS = 0x12
POST_CODE2 = 0x13
DSTACK_RUNTIME = 0x08000001
"""dstack's own: an application's event, in a JSON log only."""
VARIABLE_DRIVER_CONFIG = 0x80000001
VARIABLE_BOOT = 0x80000002
BOOT_APPLICATION = 0x80000003
BOOT_DRIVER = 0x80000004
RUNTIME_DRIVER = 0x80000005
GPT = 0x80000006
EFI_ACTION = 0x80000007
FIRMWARE_BLOB = 0x80000008
HANDOFF_TABLES = 0x80000009
FIRMWARE_BLOB2 = 0x8000000A
HANDOFF_TABLES2 = 0x8000000B
VARIABLE_BOOT2 = 0x8000000C
GPT2 = 0x8000000D
HCRTM = 0x80000010
VARIABLE_AUTHORITY = 0x800000E0

NAMES: Mapping[int, str] = {
    PREBOOT_CERT: "EV_PREBOOT_CERT",
    POST_CODE: "EV_POST_CODE",
    NO_ACTION: "EV_NO_ACTION",
    SEPARATOR: "EV_SEPARATOR",
    ACTION: "EV_ACTION",
    EVENT_TAG: "EV_EVENT_TAG",
    CRTM_CONTENTS: "EV_S_CRTM_CONTENTS",
    CRTM_VERSION: "EV_S_CRTM_VERSION",
    CPU_MICROCODE: "EV_CPU_MICROCODE",
    PLATFORM_CONFIG_FLAGS: "EV_PLATFORM_CONFIG_FLAGS",
    TABLE_OF_DEVICES: "EV_TABLE_OF_DEVICES",
    COMPACT_HASH: "EV_COMPACT_HASH",
    IPL: "EV_IPL",
    IPL_PARTITION_DATA: "EV_IPL_PARTITION_DATA",
    NONHOST_CODE: "EV_NONHOST_CODE",
    NONHOST_CONFIG: "EV_NONHOST_CONFIG",
    NONHOST_INFO: "EV_NONHOST_INFO",
    OMIT_BOOT_DEVICE_EVENTS: "EV_OMIT_BOOT_DEVICE_EVENTS",
    POST_CODE2: "EV_POST_CODE2",
    DSTACK_RUNTIME: "DSTACK_RUNTIME_EVENT",
    VARIABLE_DRIVER_CONFIG: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    VARIABLE_BOOT: "EV_EFI_VARIABLE_BOOT",
    BOOT_APPLICATION: "EV_EFI_BOOT_SERVICES_APPLICATION",
    BOOT_DRIVER: "EV_EFI_BOOT_SERVICES_DRIVER",
    RUNTIME_DRIVER: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    GPT: "EV_EFI_GPT_EVENT",
    EFI_ACTION: "EV_EFI_ACTION",
    FIRMWARE_BLOB: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    HANDOFF_TABLES: "EV_EFI_HANDOFF_TABLES",
    FIRMWARE_BLOB2: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    HANDOFF_TABLES2: "EV_EFI_HANDOFF_TABLES2",
    VARIABLE_BOOT2: "EV_EFI_VARIABLE_BOOT2",
    GPT2: "EV_EFI_GPT_EVENT2",
    HCRTM: "EV_EFI_HCRTM_EVENT",
    VARIABLE_AUTHORITY: "EV_EFI_VARIABLE_AUTHORITY",
}


@dataclass(frozen=True, slots=True)
class Event:
    """``number`` is its place in the log, from 1. ``register`` 0 to 3 is an RTMR, None is MRTD's index: never extended.

    ``digest`` (48 bytes, SHA-384) is what the register was extended by; ``data`` says what it was, and is only
    believable as far as tdx.eventdata.coverage goes. ``name`` is a JSON log's own word for the event.
    """

    number: int
    register: int | None
    kind: int
    digest: bytes
    data: bytes
    name: str = ""

    @property
    def extended(self) -> bool:
        """EV_NO_ACTION stands in the log only."""
        return self.kind != NO_ACTION

    @property
    def type_name(self) -> str:
        """The specification's name, or the number."""
        return NAMES.get(self.kind, f"0x{self.kind:08x}")
