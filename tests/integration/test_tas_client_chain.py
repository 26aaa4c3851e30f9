"""Kernel interface (simulated) -> evidence -> TLS -> our service -> secret: nothing in between is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.core.config import Config, EvidenceConfig, parse
from agent.core.errors import DeadlineExceeded, Denied
from agent.core.model import Tee
from agent.deadline import Deadline
from agent.session import open_tas
from snp import abi as snp_abi
from tdx import abi as tdx_abi
from tests.support.simulator import Simulator, pki_state, running_simulator
from tests.support.tas import RunningTas, running_tas, snp_policy, tdx_policy

__all__ = ["pki_state"]
pytestmark = pytest.mark.fuse
ZEROS = "00" * 48


class Chain:
    """A simulated machine and a service that knows its root."""

    def __init__(self, sim: Simulator, service: RunningTas, folder: Path) -> None:
        self.sim = sim
        self.service = service
        self.folder = folder
        self.notices: list[str] = []

    def config(self, field: str = "policy-id") -> Config:
        text = f"""
[tas]
url = "{self.service.url}"
pins = ["{self.service.pin}"]
api_key_file = "{self.service.api_key_file}"
secret_field = "{field}"
[evidence]
tsm_root = "{self.sim.mount}"
lock_file = "{self.folder}/quote.lock"
"""
        return parse(text, "test.toml")

    def fetch(self, policy_id: str, seconds: float = 60.0) -> bytes:
        client = open_tas(self.config(), notice=self.notices.append)
        with client.fetch_secret(policy_id, Deadline(seconds, "secret")) as secret:
            return bytes(secret.reveal())

    def policy(self, policy_id: str, *, good: bool) -> dict[str, Any]:
        evidence = open_evidence(self.config().evidence)
        if self.sim.tee is Tee.SNP:
            measurement = snp_abi.parse(evidence).fields()["measurement"]
            return snp_policy(policy_id, "disk", measurement if good else ZEROS)
        fields = tdx_abi.parse(evidence).fields()
        registers = {name: fields[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
        return tdx_policy(policy_id, "disk", registers if good else {**registers, "rtmr1": "11" * 48})


def open_evidence(config: EvidenceConfig) -> bytes:
    """A quote for the policy's author."""
    from agent.core import binding
    from agent.probe import find_source

    _, source = find_source(config)
    data = binding.collect(binding.Scope("", ""), bytes(16))
    return source.quote(data, deadline=Deadline(60, "evidence")).blob


@pytest.fixture(scope="module", params=["snp", "tdx"])
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki_state: Path) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    with (
        running_simulator(request.param, folder, pki_state) as sim,
        running_tas(folder / "tas", trust_roots=[sim.root_pem], endorsements=sim.export) as service,
    ):
        chain = Chain(sim, service, folder)
        service.create_secret("disk")
        service.put_policy(chain.policy("good", good=True))
        service.put_policy(chain.policy("bad", good=False))
        yield chain
        sim.clear()
        assert list(sim.mount.iterdir()) == []


def test_the_secret_arrives(chain: Chain) -> None:
    assert chain.fetch("good") == chain.service.secret("disk")
    assert "added root" in chain.notices[-1]


def test_the_service_says_its_version(chain: Chain) -> None:
    client = open_tas(chain.config())
    assert client.version(Deadline(60, "version"))
    assert client.nonce(Deadline(60, "nonce")) != client.nonce(Deadline(60, "nonce"))


@pytest.mark.parametrize("policy_id", ["bad", "unknown"])
def test_another_measurement_or_policy_is_denied(chain: Chain, policy_id: str) -> None:
    with pytest.raises(Denied) as caught:
        chain.fetch(policy_id)
    assert caught.value.code == "denied.attestation"


def test_the_older_field_name_is_refused_by_this_service_with_a_hint(chain: Chain) -> None:
    client = open_tas(chain.config("key-id"))
    with pytest.raises(Denied) as caught:
        client.fetch_secret("good", Deadline(60, "secret"))
    assert caught.value.code == "denied.field"
    assert "policy-id" in caught.value.hint


def test_a_tired_host_is_waited_for(chain: Chain) -> None:
    chain.sim.fault("ebusy:2")
    chain.sim.fault("generation-race:1")
    assert chain.fetch("good") == chain.service.secret("disk")


def test_a_host_that_never_answers_ends_with_the_deadline(chain: Chain) -> None:
    chain.sim.fault("ebusy:*")
    with pytest.raises(DeadlineExceeded, match="EBUSY"):
        chain.fetch("good", seconds=4.0)  # the first second or two may go into key and connection
    chain.sim.clear()
