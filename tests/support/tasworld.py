"""A service with policies for both simulated kinds of machine, and what it says when it refuses: fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.export import export
from sim.psp import default_measurement
from sim.qe import default_register
from tests.support.simulator import machine
from tests.support.tas import Prover, RunningTas, running_tas, snp_policy, tdx_policy

FAILED = (400, "TEE verification failed")
SPENT = (401, "Invalid or expired nonce")
MALFORMED = (400, "The browser (or proxy) sent a request that this server could not understand.")
NOT_JSON = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."
REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
RULES = {name: default_register(name).hex() for name in REGISTERS}
SECRET_ROUTE = "/kb/v0/get_secret"


@pytest.fixture(scope="module")
def provers(pki_state: Path) -> dict[str, Prover]:
    return {tee: Prover(machine(tee, pki_state)) for tee in ("snp", "tdx")}


@pytest.fixture(scope="module")
def service(provers: dict[str, Prover], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTas]:
    folder = tmp_path_factory.mktemp("tas")
    for tee, prover in provers.items():
        export(prover.machine, folder / "endorsements" / tee)
    roots = [folder / "endorsements" / tee / "root.pem" for tee in provers]
    words = ("--rate-limit", "0")
    with running_tas(
        folder / "state", trust_roots=roots, endorsements=folder / "endorsements", arguments=words
    ) as running:
        running.create_secret("disk")
        running.put_policy(snp_policy("snp", "disk", default_measurement().hex()))
        running.put_policy(snp_policy("snp-other", "disk", "ab" * 48))
        running.put_policy(tdx_policy("tdx", "disk", RULES))
        running.put_policy(tdx_policy("tdx-other", "disk", {**RULES, "rtmr1": "ab" * 48}))
        running.put_policy(snp_policy("no-secret", "nothing", default_measurement().hex()))
        yield running


@pytest.fixture(params=["snp", "tdx"])
def tee(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def spent(service: RunningTas, prover: Prover, nonce: str, policy_id: str) -> bool:
    """Whether a sound request with this nonce comes too late."""
    answer = service.get_secret(prover.body(nonce, policy_id))
    assert answer.status == 200 or answer.error == SPENT
    return answer.status == 401
