"""Requests to /dev/sev-guest and the firmware's answers: bytes, both ways, and error words. No device is touched.

Sources: Linux include/uapi/linux/sev-guest.h and Documentation/virt/coco/sev-guest.rst (structures, ioctl numbers,
exitinfo2); AMD 56860, SEV Secure Nested Paging Firmware ABI Specification, revision 1.58: MSG_REPORT_REQ,
MSG_REPORT_RSP, MSG_KEY_REQ, MSG_KEY_RSP, status codes; AMD 56421, GHCB specification, revision 2.03: SNP (extended)
guest request. An answer is judged by its form only; snp.verify judges the report in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.core.errors import FirmwareError, FormatError, Truncated
from agent.core.wire import Record, raw, uint
from snp.abi import REPORT_SIZE

MSG_VERSION = 1
PAGE = 4096
MAX_CERTS = 4 * PAGE
"""Bytes of certificates that the kernel passes on at the most (SEV_FW_BLOB_MAX_SIZE); asked for in whole pages."""
REPORT_RESPONSE = 4000
"""Bytes of struct snp_report_resp."""
KEY_RESPONSE = 64
"""Bytes of struct snp_derived_key_resp."""
KEY_SIZE = 32

FIELDS: Mapping[str, int] = {
    "policy": 0,
    "image_id": 1,
    "family_id": 2,
    "measurement": 3,
    "guest_svn": 4,
    "tcb_version": 5,
}
"""What a derived key may be bound to: bit numbers of GUEST_FIELD_SELECT."""
ROOT_KEYS: Mapping[str, int] = {"vcek": 0, "vmrk": 1}
"""What a derived key is derived from: ROOT_KEY_SELECT (vcek: the VLEK, where the host installed one)."""

VMM_INVALID_LEN = 1
VMM_BUSY = 2
FW_INVALID_PARAM = 0x16
FW_INVALID_KEY = 0x27
FW_NO_CALL = 0xFFFF_FFFF
"""The kernel's own word: the firmware was not called. Linux before 6.10 says 0xff."""

_FIRMWARE = {
    0x01: "the platform is in the wrong state",
    0x02: "the guest is in the wrong state",
    0x03: "the platform is configured wrongly",
    0x04: "a buffer has the wrong length",
    0x05: "the platform has an owner already",
    0x06: "a certificate is invalid",
    0x07: "the guest policy does not allow it",
    0x08: "the guest is not active",
    0x09: "an address is invalid",
    0x0A: "a signature is wrong",
    0x0B: "a measurement is wrong",
    0x0C: "the address space id is in use",
    0x0D: "the address space id is invalid",
    0x0E: "caches must be written back first",
    0x0F: "DF_FLUSH is needed first",
    0x10: "the guest is unknown",
    0x11: "the command is unknown",
    0x12: "the guest is active already",
    0x13: "a hardware error hit the platform; it goes on",
    0x14: "a hardware error left the platform unsafe",
    0x15: "the firmware does not support it",
    0x16: "a parameter is invalid (a VMPL more privileged than this guest's, for one)",
    0x17: "the firmware is out of resources",
    0x18: "secure data failed its integrity check",
    0x19: "a page has the wrong size",
    0x1A: "a page is in the wrong state",
    0x1B: "a metadata entry is invalid",
    0x1C: "a page has the wrong owner",
    0x1D: "the message counter has overflowed",
    0x1F: "the firmware left ring-buffer mode",
    0x20: "the reverse map table was not initialised",
    0x21: "the security version is too low",
    0x22: "the firmware version is not allowed",
    0x23: "the platform must shut down first",
    0x24: "the firmware update failed",
    0x25: "the firmware must be restored first",
    0x26: "the reverse map table could not be initialised",
    0x27: "the key asked for is not there (a VLEK was not loaded, for one)",
    0x28: "the platform did not shut down completely",
    0xFF: "the firmware was not called",
    FW_NO_CALL: "the firmware was not called",
}
_VMM = {
    VMM_INVALID_LEN: "the buffer for certificates is too small",
    VMM_BUSY: "the host is throttling this guest's requests",
    1 << 31: "the host failed",
}


class GuestRequest(Record, size=32, title="snp_guest_request_ioctl"):
    """The argument of every ioctl. ``req_data`` and ``resp_data`` are addresses; ``exitinfo2`` comes back."""

    msg_version = uint(0, 8)
    req_data = uint(8, 64)
    resp_data = uint(16, 64)
    exitinfo2 = uint(24, 64)


class ReportRequest(Record, size=96, title="snp_report_req"):
    """MSG_REPORT_REQ. ``key_sel``: 0 the VLEK if there is one, else the VCEK; 1 VCEK; 2 VLEK."""

    user_data = raw(0, 64)
    vmpl = uint(64, 32)
    key_sel = uint(68, 32)


class ExtReportRequest(Record, size=112, title="snp_ext_report_req"):
    """``request`` is a ReportRequest; ``certs_len`` is the size of the buffer at ``certs_address``, in whole pages."""

    request = raw(0, ReportRequest.SIZE)
    certs_address = uint(96, 64)
    certs_len = uint(104, 32)


class DerivedKeyRequest(Record, size=32, title="snp_derived_key_req"):
    """MSG_KEY_REQ."""

    root_key_select = uint(0, 32)
    guest_field_select = uint(8, 64)
    vmpl = uint(16, 32)
    guest_svn = uint(20, 32)
    tcb_version = uint(24, 64)


class ReportHead(Record, size=32, title="MSG_REPORT_RSP"):
    """The report follows. ``reserved`` may get a meaning one day: it is not judged."""

    status = uint(0, 32)
    report_size = uint(4, 32)
    reserved = raw(8, 24)


class KeyResponse(Record, size=KEY_RESPONSE, title="MSG_KEY_RSP"):
    status = uint(0, 32)
    reserved = raw(4, 28)
    key = raw(32, KEY_SIZE)


def _iowr(number: int) -> int:
    """_IOWR('S', number, struct snp_guest_request_ioctl) of asm-generic/ioctl.h."""
    return 3 << 30 | GuestRequest.SIZE << 16 | ord("S") << 8 | number


GET_REPORT = _iowr(0)
GET_DERIVED_KEY = _iowr(1)
GET_EXT_REPORT = _iowr(2)


def exitinfo2(*, vmm: int = 0, firmware: int = 0) -> int:
    """The 64-bit word from its halves."""
    return vmm << 32 | firmware


def split(word: int) -> tuple[int, int]:
    """exitinfo2 as (VMM error, firmware error)."""
    return word >> 32 & 0xFFFF_FFFF, word & 0xFFFF_FFFF


def firmware_words(status: int) -> str:
    """A firmware status in words, its number kept."""
    return f"{_FIRMWARE.get(status, 'an error that this version does not know')} (firmware 0x{status:x})"


def error_words(word: int) -> str:
    """exitinfo2 in words: the host's part, else the firmware's; "" for zero."""
    vmm, firmware = split(word)
    if vmm:
        return f"{_VMM.get(vmm, 'the host refused')} (VMM 0x{vmm:x})"
    return firmware_words(firmware) if firmware else ""


def field_select(names: Iterable[str]) -> int:
    """GUEST_FIELD_SELECT from names in FIELDS. Raises FormatError for another name."""
    word = 0
    for name in names:
        if name not in FIELDS:
            raise FormatError(f"a key can't be bound to {name[:40]!r}: {', '.join(FIELDS)}", record="MSG_KEY_REQ")
        word |= 1 << FIELDS[name]
    return word


def report_response(report: bytes, status: int = 0) -> bytes:
    """struct snp_report_resp (4000 bytes) with this report: what the firmware writes."""
    head = ReportHead.build(status=status, report_size=len(report)).data
    return (head + report).ljust(REPORT_RESPONSE, b"\0")


def key_response(key: bytes, status: int = 0) -> bytes:
    """struct snp_derived_key_resp (64 bytes) with this key (32 bytes)."""
    return KeyResponse.build(status=status, key=key).data


def report_of(response: bytes) -> bytes:
    """The report in a struct snp_report_resp, exactly as long as the firmware says.

    Raises FirmwareError (``status`` set) when the firmware refused, Truncated, FormatError.
    """
    head = ReportHead.parse_prefix(response)
    if head.status:
        raise refused(head.status)
    end = ReportHead.SIZE + head.report_size
    if head.report_size < REPORT_SIZE or end > min(len(response), REPORT_RESPONSE):
        raise Truncated(
            f"{head.TITLE}: a report of {head.report_size} bytes, in an answer of {len(response)}",
            record=head.TITLE,
            offset=4,
            expected=f"{REPORT_SIZE} to {REPORT_RESPONSE - ReportHead.SIZE} bytes",
            got=f"{head.report_size} bytes",
        )
    return response[ReportHead.SIZE : end]


def refused(status: int) -> FirmwareError:
    """The error for a status that is not zero, of MSG_REPORT_RSP and MSG_KEY_RSP alike."""
    hint = ""
    if status == FW_INVALID_PARAM:
        hint = "the VMPL asked for must be this guest's own, or a less privileged one"
    return FirmwareError(f"the firmware refused: {firmware_words(status)}", status=status, hint=hint)
