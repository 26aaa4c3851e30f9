"""dcap-qvl judges every TDX quote with collateral, genuine and simulated, valid and mutated, as we do.

Where it reaches a TCB status, ours is the same, with the same advisories. It refuses some quotes by a policy of its own, which is not about
signatures or TCB: those are listed, by name and reason. Where we are stricter, that is listed, too: what follows a
quote, other spellings of its PEM chain, and a TDX module that is worse now than when the TD was launched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sim import pki_intel, quirks
from sim.keys import State
from sim.qe import DomainOptions, QuotingEnclave
from tdx import abi
from tests.judges.qvl import REFUSED, Case, genuine, mutated, simulated
from tests.support import vectors

NOW = datetime.now(UTC)
ITS_POLICY = {
    "v4-azure-outofdate": "SEPT_VE_DISABLE is not enabled",
    "v4-debug-td": "Debug mode is enabled",
    "v5-outofdate-eval21": "Invalid MR service TD",
    "sept-ve": "SEPT_VE_DISABLE is not enabled",
    "debug": "Debug mode is enabled",
    "service-td": "Invalid MR service TD",
}
"""What dcap-qvl refuses by its own policy; here the floor and policies decide (agent.core.policy)."""
WE_ARE_STRICTER = {"padded-garbage": "it does not look at what follows a quote"}
CASES = [
    case for case in vectors.cases("tdx") if case.id == "absent" or (Path(str(case.values[0])) / "collateral").is_dir()
]
VALID = [case for case in CASES if case.id in {"v4-uptodate-2025", "v5-relaunch-advised", "v5-uptodate", "absent"}]


def agreed(name: str, case: Case) -> None:
    """Both say the same, or the difference is listed for ``name``."""
    theirs = case.theirs()
    if name in ITS_POLICY:
        assert theirs.startswith(REFUSED)
        assert ITS_POLICY[name] in theirs
        assert not case.ours().startswith(REFUSED)
    elif name in WE_ARE_STRICTER:
        assert case.ours().startswith(REFUSED)
    else:
        assert case.disagreement() == ""


@pytest.mark.parametrize("folder", CASES)
def test_genuine_quotes(folder: Path) -> None:
    case = genuine(folder)
    agreed(folder.name, case)
    status = vectors.meta(folder)["tcb_status"]
    if not case.ours().startswith(REFUSED):
        assert case.ours().partition(" ")[0] == status
        assert folder.name in ITS_POLICY or case.theirs() == case.ours()


def domain(state: Path, *names: str, **options: Any) -> QuotingEnclave:
    return QuotingEnclave(State(state), quirks.with_quirks(DomainOptions(**options), names), NOW)


@pytest.mark.parametrize("quirk", ["", *quirks.TDX])
def test_simulated_quotes(quirk: str, pki_state: Path) -> None:
    agreed(quirk, simulated(domain(pki_state, *filter(None, [quirk])), NOW))


def test_simulated_debug_domain(pki_state: Path) -> None:
    agreed("debug", simulated(domain(pki_state, debug=True), NOW))


PLATFORM = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
PART = ("UpToDate", "OutOfDate", "Revoked")
"""What Intel says of modules and enclaves; of platforms it says more."""
DOMAINS: dict[str, dict[str, Any]] = {
    "v4": {},
    "v5-td15": {"version": 5, "td15": True},
    "relaunch": {"version": 5, "td15": True, "launch_steps": -2},
}


def resigned(case: Case, made: QuotingEnclave, platform: str, module: tuple[str, str], enclave: str) -> Case:
    """The collateral signed anew: ``module`` is what is said of the module now, and of the one at launch."""
    same = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    svn = pki_intel.TDX_SVNS[0]

    def level(tcb: dict[str, Any], status: str, advisory: str) -> dict[str, Any]:
        return {**pki_intel.level(tcb, status), "advisoryIDs": [f"INTEL-{advisory}"]}

    least = pki_intel.platform_tcb(pki_intel.SGX_SVNS, pki_intel.PCE_SVN, pki_intel.TDX_SVNS)
    levels = [level({"isvsvn": svn}, module[0], "NOW"), level({"isvsvn": svn - 2}, module[1], "LAUNCH")]
    info = made.hierarchy.tcb_info(
        NOW,
        tcbLevels=[level(least, platform, "PLATFORM")],
        tdxModuleIdentities=[{"id": "TDX_01", **same, "tcbLevels": levels}],
    )
    identity = made.hierarchy.qe_identity(NOW, tcbLevels=[level({"isvsvn": 1}, enclave, "QE")])
    return replace(case, tcb_info=info, qe_identity=identity)


@pytest.mark.parametrize("kind", DOMAINS)
def test_every_combination_of_statuses(kind: str, pki_state: Path) -> None:
    """Each status of platform, module now, module at launch and enclave: the merged word is the same."""
    made = domain(pki_state, **DOMAINS[kind])
    case = simulated(made, NOW)
    words, differ = set(), []
    for platform, now, launch, enclave in itertools.product(PLATFORM, PART, PART, PART):
        if kind == "relaunch" and PART.index(now) > PART.index(launch):
            continue  # a module worse now than at launch: the next test's
        one = resigned(case, made, platform, (now, launch), enclave)
        words.add(one.ours().partition(" INTEL")[0])
        if problem := one.disagreement():
            differ.append((platform, now, launch, enclave, problem))
    assert differ == []
    assert set(PLATFORM[:-1]) | {f"{REFUSED}: verify.tcb.revoked"} <= words
    assert ("TDRelaunchAdvisedConfigurationNeeded" in words) is (kind == "relaunch")


def test_a_module_worse_now_than_at_launch_counts_here_only(pki_state: Path) -> None:
    """Stricter than dcap-qvl and Intel's library, which judge by the launch: an older module runs the TD now."""
    made = domain(pki_state, **DOMAINS["relaunch"])
    one = resigned(simulated(made, NOW), made, "UpToDate", ("OutOfDate", "UpToDate"), "UpToDate")
    assert [said.partition(" ")[0] for said in (one.ours(), one.theirs())] == ["OutOfDate", "UpToDate"]


def bits_of(data: bytes, step: int, start: int = 0) -> Sequence[int]:
    return range(8 * start, 8 * len(data), step)


def without_padding(case: Case) -> Case:
    return replace(case, quote=abi.parse(case.quote).data)


def judge_mutated_quote(case: Case) -> None:
    """All but the certificates is judged alike. Of those, dcap-qvl takes other spellings of PEM, and any root in them
    (it uses its own): there we may be stricter, never laxer."""
    text = 8 * (len(case.quote) - len(abi.parse(case.quote).certificates))
    differ = mutated(case, "quote", bits_of(case.quote, 97))
    assert [bit for bit in differ if bit < text] == []
    assert {problem.partition(",")[0] for problem in differ.values()} <= {f"we say {REFUSED}: verify.chain"}


@pytest.mark.parametrize("folder", VALID)
def test_mutated_genuine_quotes(folder: Path) -> None:
    case = without_padding(genuine(folder))
    assert case.disagreement() == ""
    judge_mutated_quote(case)


def parts(case: Case) -> Iterator[tuple[str, int]]:
    """What is mutated beside the quote, and one bit in how many."""
    yield from (("tcb_info", 997), ("qe_identity", 197), ("signer", 61), ("root_crl", 37), ("pck_crl", 97))


@pytest.mark.parametrize("folder", VALID)
def test_mutated_genuine_collateral(folder: Path) -> None:
    case = without_padding(genuine(folder))
    for part, step in parts(case):
        assert mutated(case, part, bits_of(getattr(case, part), step)) == {}, part


@pytest.mark.parametrize("kind", DOMAINS)
def test_mutated_simulated_quotes(kind: str, pki_state: Path) -> None:
    case = without_padding(simulated(domain(pki_state, **DOMAINS[kind]), NOW))
    judge_mutated_quote(case)
    for part, step in parts(case):
        assert mutated(case, part, bits_of(getattr(case, part), step)) == {}, part


@pytest.mark.parametrize("folder", VALID)
def test_truncated_quotes(folder: Path) -> None:
    case = without_padding(genuine(folder))
    for size in range(0, len(case.quote), 37):
        assert replace(case, quote=case.quote[:size]).disagreement() == ""
