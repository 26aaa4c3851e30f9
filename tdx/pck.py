"""What a PCK certificate says about its platform: the SGX extension 1.2.840.113741.1.13.1, read strictly.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.core import der
from agent.core.der import Reader
from agent.core.errors import FormatError

SGX_EXTENSION = bytes.fromhex("2a864886f84d010d01")
"""1.2.840.113741.1.13.1 as OID content; the parts of the extension are below it."""
_COMPONENTS = 16
_PCESVN = 17
_CPUSVN = 18
_TITLE = "SGX extension"


@dataclass(frozen=True, slots=True)
class Platform:
    """``components`` are the 16 SGX TCB component SVNs; ppid and cpusvn have 16 bytes, pceid 2, fmspc 6."""

    ppid: bytes
    components: tuple[int, ...]
    pcesvn: int
    cpusvn: bytes
    pceid: bytes
    fmspc: bytes

    def fields(self) -> dict[str, Any]:
        """The values under the names of docs/evidence.md."""
        return {
            "fmspc": self.fmspc.hex(),
            "pceid": self.pceid.hex(),
            "ppid": self.ppid.hex(),
            "sgx_tcb_comp_svn": list(self.components),
            "pcesvn": self.pcesvn,
            "cpusvn": self.cpusvn.hex(),
        }


def parse_extension(value: bytes) -> Platform:
    """The platform in the extension's value (DER). Parts we don't need are skipped. Raises FormatError."""
    whole = Reader(value, _TITLE)
    parts = _by_number(whole.inside(der.SEQUENCE), b"")
    whole.finish()
    tcb = _by_number(_part(parts, 2).inside(der.SEQUENCE), b"\x02")
    return Platform(
        ppid=_octets(parts, 1, 16),
        components=tuple(_svn(tcb, number, 8) for number in range(1, _COMPONENTS + 1)),
        pcesvn=_svn(tcb, _PCESVN, 16),
        cpusvn=_octets(tcb, _CPUSVN, 16),
        pceid=_octets(parts, 3, 2),
        fmspc=_octets(parts, 4, 6),
    )


def _by_number(pairs: Reader, below: bytes) -> dict[int, Reader]:
    """SEQUENCE OF { OID, value }: the OID's last number to a reader that stands before the value."""
    found: dict[int, Reader] = {}
    for pair in pairs.each(der.SEQUENCE):
        oid = pair.content(der.OID)
        arc, number = oid[:-1], oid[-1:]
        if arc != SGX_EXTENSION + below or number[0] in found:
            raise pair.error(f"unexpected part {oid.hex()}")
        found[number[0]] = Reader(pair.data, _TITLE, pair.at, pair.end)
        pair.skip()
    return found


def _part(parts: dict[int, Reader], number: int) -> Reader:
    if number not in parts:
        raise FormatError(f"{_TITLE}: part {number} is missing", record=_TITLE)
    return parts[number]


def _octets(parts: dict[int, Reader], number: int, size: int) -> bytes:
    value = _part(parts, number).content(der.OCTET_STRING)
    if len(value) != size:
        raise FormatError(f"{_TITLE}: part {number} has {len(value)} bytes, not {size}", record=_TITLE)
    return value


def _svn(parts: dict[int, Reader], number: int, bits: int) -> int:
    value = _part(parts, number).integer()
    if value >> bits:
        raise FormatError(f"{_TITLE}: SVN {number} has more than {bits} bits", record=_TITLE)
    return value
