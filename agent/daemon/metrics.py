"""GET /metrics: what the signer counts, as Prometheus reads it (text format 0.0.4).

Every label has few values, all of them ours: operations, uses, purposes, codes of refusals. Nothing that a caller
chooses (names of keys, namespaces, contexts, users) becomes a label: nobody makes the list long, or learns from it
what others do. A scrape asks no other process.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent import __version__
from agent.core.access import OPERATIONS, Decision, Wish
from agent.core.errors import TeeAgentError
from agent.core.model import Evidence
from agent.daemon import body
from agent.daemon.around import CHALLENGE_BATCH, SIGNING_KEY, Around, Ask
from agent.daemon.audit import Audit
from agent.daemon.batch import Batcher
from agent.daemon.dispatch import Act, Call, as_bytes
from agent.daemon.keys import KeyRing
from agent.daemon.keystore import USES
from agent.daemon.named import NamedKeys
from agent.daemon.web import Response
from agent.quoter import Quotes

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CODES = 100
"""Codes of refusals that are told apart; there are fewer than that (agent.core.errors)."""
OTHER = "other"
PURPOSES = (SIGNING_KEY, CHALLENGE_BATCH)
"""Of quotes that the signer asks for."""

Sample = tuple[Mapping[str, str], float]
Family = tuple[str, str, str, list[tuple[str, Sample]]]
"""Name, type, help, and samples, each with what its name has beyond the family's."""


@dataclass(slots=True)
class Tally:
    """What happened since the start. Counting raises nothing and costs next to nothing."""

    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    denied: Counter[str] = field(default_factory=Counter)
    signed: Counter[str] = field(default_factory=Counter)
    quotes: Counter[str] = field(default_factory=Counter)
    quote_failures: Counter[str] = field(default_factory=Counter)
    quote_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PURPOSES, 0.0))
    started: float = field(default_factory=time.time)

    def on_answered(self, operation: str) -> None:
        """A request that the policy allowed and that got its answer."""
        self.answered[operation] += 1

    def on_signed(self, use: str, count: int) -> None:
        """So many signatures by a key for ``use``."""
        self.signed[use] += count

    def on_refused(self, error: TeeAgentError) -> None:
        """A problem document."""
        known = error.code in self.refused or len(self.refused) < MAX_CODES
        self.refused[error.code if known else OTHER] += 1

    def on_denied(self, wish: Wish) -> None:
        """A refusal by the access policy."""
        self.denied[wish.operation] += 1


class Metered(Around):
    """Quotes that are counted: how many, how long, how many in vain."""

    def __init__(self, quotes: Quotes, tally: Tally) -> None:
        super().__init__(quotes)
        self._tally = tally

    def around(self, purpose: str, ask: Ask) -> Evidence:
        if purpose not in PURPOSES:
            return ask()
        begun = time.monotonic()
        try:
            evidence = ask()
        except TeeAgentError:
            self._tally.quote_failures[purpose] += 1
            raise
        self._tally.quotes[purpose] += 1
        self._tally.quote_seconds[purpose] += time.monotonic() - begun
        return evidence


@dataclass(frozen=True, slots=True)
class MetricsApi:
    """The endpoint. ``connections`` counts the open ones; ``verdicts`` says whether there are some."""

    tally: Tally
    ring: KeyRing
    named: NamedKeys
    batcher: Batcher
    audit: Audit
    connections: Callable[[], int]
    verdicts: Callable[[], bool]

    async def show(self, call: Call) -> tuple[Wish, Act]:
        """All of it."""
        body.query(call.request, frozenset())

        async def act(_: Decision) -> Response:
            return as_bytes(exposition(self.families()), MEDIA_TYPE)

        return Wish("metrics"), act

    def families(self) -> Iterator[Family]:
        """Every family, in the order of the answer."""
        yield _one("tee_agent_info", "gauge", "The agent's version.", 1, version=__version__)
        yield from self._counts()
        yield from self._quotes()
        yield from self._key()
        yield from self._now()
        yield from _process(self.tally.started)

    def _counts(self) -> Iterator[Family]:
        tally = self.tally
        answered = {name: tally.answered[name] for name in OPERATIONS}
        denied = {name: tally.denied[name] for name in OPERATIONS}
        signed = {use: tally.signed[use] for use in USES}
        yield _many("tee_agent_requests_total", "Requests that were answered.", "operation", answered)
        yield _many("tee_agent_denials_total", "Requests that the access policy refused.", "operation", denied)
        yield _many("tee_agent_refusals_total", "Problem documents, by code.", "code", tally.refused)
        yield _many("tee_agent_signatures_total", "Signatures, by the key's use.", "use", signed)

    def _quotes(self) -> Iterator[Family]:
        tally, name = self.tally, "tee_agent_quote_duration_seconds"
        samples: list[tuple[str, Sample]] = []
        for purpose in PURPOSES:
            label = {"purpose": purpose}
            samples += [
                ("_sum", (label, tally.quote_seconds[purpose])),
                ("_count", (label, float(tally.quotes[purpose]))),
            ]
        yield name, "summary", "Pieces of evidence that the hardware gave, and how long it took.", samples
        failures = {purpose: tally.quote_failures[purpose] for purpose in PURPOSES}
        yield _many("tee_agent_quote_failures_total", "Evidence that was asked for in vain.", "purpose", failures)
        yield _one("tee_agent_challenge_batches_total", "counter", "Quotes over challenges.", self.batcher.batches)

    def _key(self) -> Iterator[Family]:
        key, now = self.ring.held, datetime.now(UTC)
        ready = bool(key and key.valid(now))
        yield _one("tee_agent_ready", "gauge", "1 where the agent's own key has evidence in force.", ready)
        if key:
            age = (now - key.evidence_at).total_seconds()
            ends = key.statement.expires.timestamp()
            yield _one("tee_agent_evidence_age_seconds", "gauge", "Age of the evidence of the agent's own key.", age)
            yield _one("tee_agent_key_expiry_timestamp_seconds", "gauge", "When its statement ends.", ends)

    def _now(self) -> Iterator[Family]:
        audit = self.audit.summary()
        yield _one("tee_agent_connections", "gauge", "Open connections.", self.connections())
        yield _one("tee_agent_challenges_waiting", "gauge", "Challenges without an answer yet.", self.batcher.waiting)
        yield _one("tee_agent_named_keys", "gauge", "Generations of named keys.", self.named.count)
        yield _one("tee_agent_named_keys_waiting", "gauge", "Named keys that wait for evidence.", self.named.waiting)
        yield _one(
            "tee_agent_audit_records_total",
            "counter",
            "Records of the audit log since its beginning.",
            audit["seq"] + 1,
        )
        yield _one("tee_agent_audit_waiting", "gauge", "Events that are not in the log yet.", audit["waiting"])
        yield _one(
            "tee_agent_audit_trouble", "gauge", "1 where the log can't be written.", audit["trouble"] is not None
        )
        text = "1 where nothing judges documents until the signer starts again."
        yield _one("tee_agent_verify_trouble", "gauge", text, not self.verdicts())


def _process(started: float) -> Iterator[Family]:
    """Under the names that every Prometheus client has for them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime
    yield _one("process_cpu_seconds_total", "counter", "Processor time of the signer.", seconds)
    yield _one("process_start_time_seconds", "gauge", "When the signer started.", started)


def _one(name: str, kind: str, text: str, value: float, **labels: str) -> Family:
    return name, kind, text, [("", (labels, float(value)))]


def _many(name: str, text: str, label: str, values: Mapping[str, float]) -> Family:
    return name, "counter", text, [("", ({label: key}, float(value))) for key, value in sorted(values.items())]


def exposition(families: Iterator[Family]) -> bytes:
    """The text format: HELP and TYPE of each family, then its samples."""
    lines: list[str] = []
    for name, kind, text, samples in families:
        lines += [f"# HELP {name} {_escaped(text)}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{suffix}{_labels(labels)} {_number(value)}" for suffix, (labels, value) in samples]
    return "".join(line + "\n" for line in lines).encode()


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={_quoted(value)}" for name, value in labels.items()) + "}" if labels else ""


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
