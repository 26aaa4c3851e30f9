"""Intel's statements about platforms and quoting enclaves: TCB info (version 3) and QE identity (version 2).

The signature covers the exact bytes of the inner object, so they are never re-serialised. Around it exactly one form
is accepted, the one that Intel serves: no bit outside the signature is free. Inside, fields that we don't know are
tolerated, for they are signed; a status that we don't know is refused.
Source: Intel SGX and TDX Provisioning Certification Service API, version 4.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.core.errors import FormatError, Oversized, SignatureInvalid
from tdx.certs import Certificate, require_signature

MAX_SIZE = 1 << 20
"""Bytes of a body."""
STATUSES = frozenset(
    {
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    }
)
_COMPONENTS = 16
_FORM = {
    name: re.compile(rb'\{"' + name.encode() + rb'":(\{.*\}),"signature":"([0-9a-f]{128})"\}', re.DOTALL)
    for name in ("tcbInfo", "enclaveIdentity")
}


@dataclass(frozen=True, slots=True)
class Level:
    """One TCB level. ``sgx`` and ``tdx`` are 16 component SVNs each, empty where judged by ``svn`` alone.

    ``svn`` is PCESVN for a platform, ISVSVN for a module or enclave. ``date`` is as served.
    """

    svn: int
    status: str
    date: str
    advisories: tuple[str, ...]
    sgx: tuple[int, ...] = ()
    tdx: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Module:
    """What a TDX module must be: signer (48 bytes), attributes under a mask (8 bytes each), and its levels."""

    mrsigner: bytes
    attributes: bytes
    mask: bytes
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, slots=True)
class Period:
    """When a statement was made and until when it is good, and the number of the TCB evaluation behind it."""

    issued: datetime
    next_update: datetime
    evaluation: int


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """``module`` is for TDX module version 0, ``modules`` by version number for the others."""

    period: Period
    fmspc: bytes
    pceid: bytes
    module: Module
    modules: Mapping[int, Module]
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """Masks apply to the report's value before it is compared."""

    period: Period
    miscselect: bytes
    miscselect_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[Level, ...]


def load_tcb_info(body: bytes, signers: Sequence[Certificate]) -> tuple[TcbInfo, tuple[Certificate, ...]]:
    """The statement and those of ``signers`` whose key signed it. Raises FormatError, SignatureInvalid."""
    inner, used = _opened("tcbInfo", body, signers)
    try:
        return _tcb_info(inner), used
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"TCB info: {_reason(error)}", record="tcbInfo") from error


def load_qe_identity(body: bytes, signers: Sequence[Certificate]) -> tuple[QeIdentity, tuple[Certificate, ...]]:
    """The statement and those of ``signers`` whose key signed it. Raises FormatError, SignatureInvalid."""
    inner, used = _opened("enclaveIdentity", body, signers)
    try:
        return _qe_identity(inner), used
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FormatError(f"QE identity: {_reason(error)}", record="enclaveIdentity") from error


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def _opened(name: str, body: bytes, signers: Sequence[Certificate]) -> tuple[bytes, tuple[Certificate, ...]]:
    if len(body) > MAX_SIZE:
        raise Oversized(f"{name} has {len(body)} bytes, {MAX_SIZE} are allowed", record=name)
    match = _FORM[name].fullmatch(body)
    if match is None:
        raise FormatError(
            f'{name} is not the body as Intel serves it: {{"{name}":{{...}},"signature":"<128 hex digits>"}}',
            record=name,
            hint="keep the body byte for byte as received",
        )
    inner, signature = match[1], bytes.fromhex(match[2].decode("ascii"))
    used = tuple(signer for signer in signers if _signed_by(signer, signature, inner))
    if not used:
        raise SignatureInvalid(f"{name} signature does not verify under any TCB signer")
    return inner, used


def _signed_by(signer: Certificate, signature: bytes, inner: bytes) -> bool:
    try:
        require_signature(signer.key, signature, inner, "collateral")
    except SignatureInvalid:
        return False
    return True


def _tcb_info(inner: bytes) -> TcbInfo:
    data = json.loads(inner)
    _require(data, "id", "TDX")
    _require(data, "version", 3)
    return TcbInfo(
        period=_period(data),
        fmspc=_hex(data["fmspc"], 6),
        pceid=_hex(data["pceId"], 2),
        module=_module(data["tdxModule"]),
        modules={_module_number(entry["id"]): _module(entry) for entry in data.get("tdxModuleIdentities", [])},
        levels=tuple(_platform_level(entry) for entry in data["tcbLevels"]),
    )


def _qe_identity(inner: bytes) -> QeIdentity:
    data = json.loads(inner)
    _require(data, "id", "TD_QE")
    _require(data, "version", 2)
    return QeIdentity(
        period=_period(data),
        miscselect=_hex(data["miscselect"], 4),
        miscselect_mask=_hex(data["miscselectMask"], 4),
        attributes=_hex(data["attributes"], 16),
        attributes_mask=_hex(data["attributesMask"], 16),
        mrsigner=_hex(data["mrsigner"], 32),
        isvprodid=_int(data["isvprodid"]),
        levels=tuple(_enclave_level(entry) for entry in data["tcbLevels"]),
    )


def _require(data: Mapping[str, Any], key: str, wanted: str | int) -> None:
    if data[key] != wanted or isinstance(data[key], bool):
        raise ValueError(f"{key} is {data[key]!r}, {wanted!r} is required")


def _period(data: Mapping[str, Any]) -> Period:
    return Period(_time(data["issueDate"]), _time(data["nextUpdate"]), _int(data["tcbEvaluationDataNumber"]))


def _module(data: Mapping[str, Any]) -> Module:
    return Module(
        mrsigner=_hex(data["mrsigner"], 48),
        attributes=_hex(data["attributes"], 8),
        mask=_hex(data["attributesMask"], 8),
        levels=tuple(_enclave_level(entry) for entry in data.get("tcbLevels", [])),
    )


def _module_number(identity: str) -> int:
    if not re.fullmatch(r"TDX_[0-9A-Fa-f]{2}", identity, re.ASCII):
        raise ValueError(f"TDX module identity {identity!r} is not TDX_ and two hex digits")
    return int(identity[4:], 16)


def _platform_level(data: Mapping[str, Any]) -> Level:
    tcb = data["tcb"]
    return _level(data, tcb["pcesvn"], _svns(tcb["sgxtcbcomponents"]), _svns(tcb["tdxtcbcomponents"]))


def _enclave_level(data: Mapping[str, Any]) -> Level:
    return _level(data, data["tcb"]["isvsvn"])


def _level(data: Mapping[str, Any], svn: Any, sgx: tuple[int, ...] = (), tdx: tuple[int, ...] = ()) -> Level:
    status = data["tcbStatus"]
    if status not in STATUSES:
        raise ValueError(f"TCB status {status!r} is not known")
    advisories = tuple(str(advisory) for advisory in data.get("advisoryIDs", []))
    return Level(_int(svn), status, str(data["tcbDate"]), advisories, sgx, tdx)


def _svns(components: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    svns = tuple([component["svn"] for component in components])
    if len(svns) != _COMPONENTS or set(map(type, svns)) != {int} or min(svns) < 0:
        raise ValueError(f"a TCB level has components {svns!r}, {_COMPONENTS} non-negative integers are required")
    return svns


def _int(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a non-negative integer")
    return value


def _hex(value: Any, size: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * size:
        raise TypeError(f"{value!r} is not {size} bytes in hex")
    return bytes.fromhex(value)


def _time(value: Any) -> datetime:
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value, re.ASCII):
        raise TypeError(f"{value!r} is not a time")
    return datetime.fromisoformat(value).astimezone(UTC)
