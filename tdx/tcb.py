"""How up to date a platform, its TDX module and its quoting enclave are, by Intel's statements.

Source: Intel TDX DCAP, "TCB level" and "TDX module" in the provisioning service's API version 4, and the relaunch
status of the quote verification library. Three parts are judged, then merged into one word:

platform
    the first level whose 16 SGX components and PCESVN the PCK certificate reaches, and whose TDX components
    TEE_TCB_SVN reaches. Where TEE_TCB_SVN[1] (the module's major version) is not 0, components 0 and 1 are left out
    and the module is judged by itself:
module
    the levels of `TDX_<version>` against TEE_TCB_SVN[0]; its signer and attributes must be those stated.
enclave
    signer, product, attributes as stated; the levels of the QE identity against its ISVSVN.

A TD 1.5 report also has the SVNs of the module that runs now. A TD launched under an out-of-date module that was
updated since is `TDRelaunchAdvised`. Where nothing fits, the word is `NoMatchingLevel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import ge
from typing import Any

from agent.core.errors import TcbRejected
from tdx.abi import Body, Body15, QeReport
from tdx.collateral import Level, Module, QeIdentity, TcbInfo
from tdx.pck import Platform

UP_TO_DATE = "UpToDate"
NO_LEVEL = "NoMatchingLevel"
REVOKED = "Revoked"
FAILURES = frozenset({NO_LEVEL, REVOKED})
"""Words that no policy may accept."""
_OLD, _CONFIGURE, _HARDEN = "out of date", "configuration", "hardening"
_MEANING: dict[str, frozenset[str]] = {
    UP_TO_DATE: frozenset(),
    "SWHardeningNeeded": frozenset({_HARDEN}),
    "ConfigurationNeeded": frozenset({_CONFIGURE}),
    "ConfigurationAndSWHardeningNeeded": frozenset({_CONFIGURE, _HARDEN}),
    "OutOfDate": frozenset({_OLD}),
    "OutOfDateConfigurationNeeded": frozenset({_OLD, _CONFIGURE}),
}
_WORD = {meaning: word for word, meaning in _MEANING.items()}


@dataclass(frozen=True, slots=True)
class Judgement:
    """``status`` is the merged word, ``detail`` its parts (docs/evidence.md), ``advisories`` those of all parts."""

    status: str
    detail: dict[str, Any]
    advisories: tuple[str, ...]


def merge(*statuses: str) -> str:
    """The one word for several parts: what any part needs, the whole needs; a failure of one is that of all."""
    for failure in (NO_LEVEL, REVOKED):
        if failure in statuses:
            return failure
    needs = frozenset().union(*(_MEANING[status] for status in statuses))
    return _WORD[needs - {_HARDEN} if _OLD in needs else needs]


def evaluate(info: TcbInfo, identity: QeIdentity, platform: Platform, body: Body, qe: QeReport) -> Judgement:
    """The judgement over a quote whose signatures hold.

    Raises TcbRejected when module or enclave are not the stated ones at all; a bad level is a word, not an error.
    """
    require_enclave(identity, qe)
    enclave = _by_svn(identity.levels, qe.isvsvn)
    level, module = _at(info, platform, body, body.tee_tcb_svn)
    launched = merge(_status(level), _status(module), _status(enclave))
    detail = {
        "tcb_level_status": _status(level),
        "tcb_level_date": level.date if level else None,
        "advisory_ids": list(level.advisories) if level else [],
        "tdx_module_status": _status(module),
        "tdx_module_date": (module.date or None) if module else None,
        "qe_status": _status(enclave),
        "tcb_evaluation_data_number": info.period.evaluation,
        "qe_identity_evaluation_data_number": identity.period.evaluation,
    }
    overall = launched
    if isinstance(body, Body15):
        level_now, module_now = _at(info, platform, body, body.tee_tcb_svn_2)
        detail |= {"svn2_level_status": _status(level_now), "svn2_module_status": _status(module_now)}
        overall = _with_current(launched, merge(_status(level_now), _status(module_now), _status(enclave)))
    parts = [part.advisories for part in (level, module, enclave) if part]
    return Judgement(overall, detail | {"overall": overall}, tuple(sorted(set().union(*parts))))


def require_enclave(identity: QeIdentity, qe: QeReport) -> None:
    """That the quoting enclave is the one that Intel names. Raises TcbRejected."""
    differs = [
        name
        for name, same in (
            ("MRSIGNER", qe.mrsigner == identity.mrsigner),
            ("ISVPRODID", qe.isvprodid == identity.isvprodid),
            ("MISCSELECT", _masked(qe.miscselect, identity.miscselect_mask) == identity.miscselect),
            ("ATTRIBUTES", _masked(qe.attributes, identity.attributes_mask) == identity.attributes),
        )
        if not same
    ]
    if differs:
        raise TcbRejected(f"quoting enclave is not the one in QE identity: {', '.join(differs)}", code="verify.tcb.qe")


def _at(info: TcbInfo, platform: Platform, body: Body, svn: bytes) -> tuple[Level | None, Level | None]:
    """Platform level and module level for these TDX SVNs."""
    version = svn[1]
    module = info.modules.get(version) if version else info.module
    if module is not None:
        _require_module(module, body)
    first = 2 if version else 0
    level = next((level for level in info.levels if _reaches(platform, svn, level, first)), None)
    if version == 0:
        return level, Level(0, UP_TO_DATE, "", ())
    return level, _by_svn(module.levels, svn[0]) if module else None


def _require_module(module: Module, body: Body) -> None:
    if body.mr_signer_seam != module.mrsigner or _masked(body.seam_attributes, module.mask) != module.attributes:
        raise TcbRejected("TDX module's signer or attributes are not those in TCB info", code="verify.tcb.module")


def _reaches(platform: Platform, svn: bytes, level: Level, first: int) -> bool:
    return (
        all(map(ge, platform.components, level.sgx))
        and platform.pcesvn >= level.svn
        and all(map(ge, svn[first:], level.tdx[first:]))
    )


def _by_svn(levels: Sequence[Level], svn: int) -> Level | None:
    return next((level for level in levels if svn >= level.svn), None)


def _with_current(launched: str, current: str) -> str:
    """The word for a TD 1.5, from the judgement at launch and that of now.

    As Intel's library has it, but that a module which is worse now than at launch counts, too.
    """
    if current in FAILURES or launched in FAILURES:
        return merge(launched, current)
    if _OLD in _MEANING[launched] and _OLD not in _MEANING[current]:
        configure = _CONFIGURE in _MEANING[launched] | _MEANING[current]
        return "TDRelaunchAdvisedConfigurationNeeded" if configure else "TDRelaunchAdvised"
    return merge(launched, current)


def _status(level: Level | None) -> str:
    return level.status if level else NO_LEVEL


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(a & b for a, b in zip(value, mask, strict=True))
