"""Will this machine come back by itself? Everything early boot does, done now, short of opening anything.

Secrets are fetched by attestation as in early boot, tried on a copy of the header in memory, and wiped.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from agent import probe, session
from agent.admin import image, inspect, nextboot, volumes
from agent.boot import early
from agent.core import ports
from agent.core.config import Config, TasConfig, VolumeConfig
from agent.core.errors import TeeAgentError
from agent.core.exchange import version_request
from agent.core.health import Finding
from agent.core.model import Secret
from agent.core.policy import Policy
from agent.deadline import Deadline
from agent.disk import keys
from agent.disk.unlock import test
from agent.disk.volume import Fetch

SERVICE_SECONDS = 15.0
VOLUME_SECONDS = 600.0
SKEW_SECONDS = 300.0
COMMAND_LINE = Path("/proc/cmdline")


def findings(config: Config, policy: Policy | None = None) -> Iterator[Finding]:
    """One finding for each thing that an unattended boot rests on. Raises ConfigError.

    ``policy`` is the service's, for asking whether it accepts the next boot.
    """
    tas = session.required(config)
    yield _tee(config)
    service = inspect.service(config, Deadline(SERVICE_SECONDS, "attestation service"))
    reached = service.state == "ok"
    yield service if reached else Finding("TAS", "PROBLEM", service.text, service.hint)
    if reached:
        yield clock(tas, Deadline(SERVICE_SECONDS, "the service's clock"))
    yield _command_line(config)
    if not config.volumes:
        yield Finding("volumes", "PROBLEM", "none configured: nothing is opened", "tee-agent setup --volume ...")
    for one in config.volumes:
        yield from volume(config, one) if reached else (_not_tried(one),)
    yield from initramfs(config)
    yield from nextboot.findings(config, policy)


def _tee(config: Config) -> Finding:
    seen = probe.describe(config.evidence)
    if seen["problem"]:
        return Finding("TEE", "PROBLEM", seen["problem"]["message"], seen["problem"]["hint"])
    return Finding("TEE", "ok", f"{seen['tee']} by {seen['provider']}")


def clock(tas: TasConfig, deadline: ports.Deadline) -> Finding:
    """Ours against the service's, by the Date of an answer under its pins."""
    ask = version_request()
    try:
        answer = session.open_transport(tas).request(
            ask.method, ask.path, headers=ask.headers, body=b"", max_bytes=tas.answer_bytes, deadline=deadline
        )
        theirs = parsedate_to_datetime(answer.headers["date"])
    except (TeeAgentError, KeyError, ValueError, TypeError):
        return Finding("clock", "note", "the service tells no time to compare with")
    off = (datetime.now(UTC) - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))).total_seconds()
    if abs(off) <= SKEW_SECONDS:
        return Finding("clock", "ok", f"within {SKEW_SECONDS:.0f} s of the service's")
    text = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the service's"
    if any(pin.kind == "ca" for pin in tas.pins):
        return Finding(
            "clock", "PROBLEM", f"{text}: ca: pins need the time in early boot", "set the clock (and the RTC)"
        )
    return Finding("clock", "note", f"{text}: statements of keys will carry wrong times", "set the clock")


def _command_line(config: Config) -> Finding:
    """Early boot asks for no secret under a command line outside the allow-list; this boot's stands for the next."""
    try:
        early.command_line(config, COMMAND_LINE)
    except TeeAgentError as error:
        return Finding("command line", "PROBLEM", error.message, error.hint)
    return Finding("command line", "ok", "early boot accepts the one of this boot")


def _not_tried(one: VolumeConfig) -> Finding:
    return Finding(f"volume {one.name}", "PROBLEM", f"not tried without the service; else: {one.fallback}")


def volume(config: Config, one: VolumeConfig) -> Iterator[Finding]:
    subject, fetch = f"volume {one.name}", fetcher(config)
    deadline = Deadline(VOLUME_SECONDS, f"testing {one.name}")
    bound = ""
    try:
        done = test(one, fetch=fetch, deadline=deadline)
    except TeeAgentError as error:
        yield Finding(subject, "PROBLEM", f"would not open: {error.message}; else: {one.fallback}", error.hint)
    else:
        bound = done.key_id
        text = f"would open: policy {bound}, header verified, keyslot {done.slot}; else: {one.fallback}"
        yield Finding(subject, "ok", text)
    for policy_id in one.policy_ids:
        if policy_id != bound:
            yield _released(subject, policy_id, fetch, deadline)


def _released(subject: str, policy_id: str, fetch: Fetch, deadline: ports.Deadline) -> Finding:
    """A policy that the volume is not bound with: the next one, or the one that failed."""
    try:
        with keys.checked(fetch(policy_id, deadline)):
            return Finding(subject, "ok", f"policy {policy_id}: its secret is released to this machine")
    except TeeAgentError as error:
        return Finding(subject, "note", f"policy {policy_id}: its secret is not released: {error.message}", error.hint)


def fetcher(config: Config) -> Fetch:
    def fetch(policy_id: str, deadline: ports.Deadline) -> Secret:
        tas = session.required(config)
        limit = Deadline(min(tas.deadline_seconds, deadline.remaining()), "secret from the attestation service")
        return session.open_tas(config).fetch_secret(policy_id, limit)

    return fetch


def initramfs(config: Config) -> Iterator[Finding]:
    """What is opened in early boot must be in the initramfs as it is configured now."""
    looked = image.look(config, Deadline(inspect.IMAGE_SECONDS, "unpacking the initramfs"))
    names = looked.names if looked.names is not None else frozenset(entry.name for entry in volumes.entries())
    wanted = early.chosen(config.volumes, names)
    if looked.state in ("not installed", "unknown") and wanted:
        hint = "apt install tee-agent-initramfs" if looked.state == "not installed" else ""
        yield Finding("initramfs", "PROBLEM", f"{looked.state}: {looked.text}", hint)
    else:
        yield inspect.initramfs(looked)
    for one in config.volumes:
        if one not in wanted:
            yield Finding(f"volume {one.name}", "note", "not opened in early boot: crypttab does not name it there")
