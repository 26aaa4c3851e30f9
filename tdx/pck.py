"""What a PCK certificate says about its platform: the SGX extension 1.2.840.113741.1.13.1, read strictly.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.core.errors import FormatError
from tdx import der

SGX_EXTENSION = bytes.fromhex("2a864886f84d010d01")
"""1.2.840.113741.1.13.1 as OID content; the parts of the extension are below it."""
_COMPONENTS = 16
_PCESVN = 17
_CPUSVN = 18


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
    parts = _by_number(der.only(value, der.SEQUENCE), b"")
    tcb = _by_number(_part(parts, 2, der.SEQUENCE), b"\x02")
    components = tuple(_svn(tcb, number, 8) for number in range(1, _COMPONENTS + 1))
    return Platform(
        ppid=_octets(parts, 1, 16),
        components=components,
        pcesvn=_svn(tcb, _PCESVN, 16),
        cpusvn=_octets(tcb, _CPUSVN, 16),
        pceid=_octets(parts, 3, 2),
        fmspc=_octets(parts, 4, 6),
    )


def _by_number(content: bytes, below: bytes) -> dict[int, tuple[int, bytes]]:
    """SEQUENCE OF { OID, value }: the OID's last number to (tag, content)."""
    found: dict[int, tuple[int, bytes]] = {}
    for tag, entry in der.children(content):
        pair = der.children(entry)
        if tag != der.SEQUENCE or len(pair) != 2 or pair[0][0] != der.OID:
            raise FormatError("SGX extension is not a list of pairs", record="SGX extension")
        arc, number = pair[0][1][:-1], pair[0][1][-1]
        if arc != SGX_EXTENSION + below or number in found:
            raise FormatError(f"SGX extension has an unexpected part {pair[0][1].hex()}", record="SGX extension")
        found[number] = pair[1]
    return found


def _part(parts: dict[int, tuple[int, bytes]], number: int, tag: int) -> bytes:
    got = parts.get(number)
    if got is None or got[0] != tag:
        raise FormatError(f"SGX extension: part {number} is missing or of a wrong type", record="SGX extension")
    return got[1]


def _octets(parts: dict[int, tuple[int, bytes]], number: int, size: int) -> bytes:
    value = _part(parts, number, der.OCTET_STRING)
    if len(value) != size:
        raise FormatError(f"SGX extension: part {number} has {len(value)} bytes, not {size}", record="SGX extension")
    return value


def _svn(parts: dict[int, tuple[int, bytes]], number: int, bits: int) -> int:
    value = der.integer(_part(parts, number, der.INTEGER))
    if value >> bits:
        raise FormatError(f"SGX extension: SVN {number} has more than {bits} bits", record="SGX extension")
    return value
