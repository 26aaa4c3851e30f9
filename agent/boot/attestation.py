"""Secrets by attestation, as early boot fetches them: the first wrapping key is made while the network comes up.

The network is waited for by the first fetch, so headers are judged and the TEE is found before; a network that did
not come up fails every fetch alike.
"""

from __future__ import annotations

from agent import session
from agent.boot.advance import KeyInAdvance
from agent.boot.kernel import Modules
from agent.boot.network import Network
from agent.boot.report import Report
from agent.core import ports
from agent.core.config import Config
from agent.core.errors import TransportError
from agent.core.model import Evidence, Nonce, Secret
from agent.deadline import Deadline
from agent.probe import endorsements_of, find_source
from agent.quoter import Quoter, local_scope
from agent.tas_client import TasClient
from agent.unseal import WrappingKey


class Secrets:
    """``fetch`` is what agent.disk asks for secrets; times and notices go to the report."""

    def __init__(self, config: Config, network: Network, modules: Modules, key: KeyInAdvance, report: Report) -> None:
        self._config = config
        self._network = network
        self._modules = modules
        self._key: KeyInAdvance | None = key
        self._report = report
        self._client: TasClient | None = None
        self._no_network: TransportError | None = None

    def fetch(self, policy_id: str, deadline: ports.Deadline) -> Secret:
        """The secret of ``policy_id``. Raises what TasClient.fetch_secret raises, and TransportError."""
        tas = session.required(self._config)
        self._client = self._client or self._open(deadline)
        self._await_network(deadline)
        limit = Deadline(min(tas.deadline_seconds, deadline.remaining()), "secret from the attestation service")
        secret = self._client.fetch_secret(policy_id, limit)
        self._report.mark("secret")
        return secret

    def _await_network(self, deadline: ports.Deadline) -> None:
        if self._no_network is not None:
            raise self._no_network
        if "network" in self._report.timeline:
            return
        try:
            up = self._network.wait(deadline)
        except TransportError as error:
            self._no_network = error
            raise
        self._report.timeline["network"] = round(up, 3)

    def _open(self, deadline: ports.Deadline) -> TasClient:
        """As session.open_tas, with the key made in advance and a mark when evidence is there."""
        tas = session.required(self._config)
        self._modules.ready(deadline)
        _, source = find_source(self._config.evidence)
        return TasClient(
            tas,
            session.open_transport(tas),
            _Marked(source, self._config.daemon.audience, self._report),
            endorsements_of,
            api_key=session.read_api_key(tas.api_key_file),
            new_key=lambda: self._next_key(deadline),
            notice=self._report.notices.append,
        )

    def _next_key(self, deadline: ports.Deadline) -> WrappingKey:
        """The key made in advance, once; every further try gets a new one."""
        key, self._key = self._key, None
        made = WrappingKey() if key is None else key.take(deadline)
        self._report.mark("key")
        return made


class _Marked(Quoter):
    """A quoter that tells when evidence was there."""

    def __init__(self, source: ports.QuoteSource, audience: str, report: Report) -> None:
        super().__init__(source, local_scope(audience))
        self._report = report

    def tas(self, nonce: Nonce, wrapping_key: bytes, *, deadline: ports.Deadline) -> Evidence:
        evidence = super().tas(nonce, wrapping_key, deadline=deadline)
        self._report.mark("evidence")
        return evidence
