"""Gathers the facts that agent.core.health judges: from the agent's socket, else as far as this process can see.

Never asks for a quote, never fetches a secret, waits a few seconds at the most. Shape of the result: ``gather``.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from agent import __version__, probe
from agent.admin import measured
from agent.boot import report
from agent.client import Client
from agent.core.canonical import rfc3339
from agent.core.config import Config
from agent.core.errors import ConfigError, Denied, TeeAgentError
from agent.daemon.remote import RemoteQuoter
from agent.deadline import Deadline
from agent.disk.listing import list_volumes
from agent.disk.measured import Measured
from agent.session import open_tas

AGENT_SECONDS = 6.0
SERVICE_SECONDS = 5.0


def gather(config: Config, at: datetime) -> dict[str, Any]:
    """``{version, at, config, tee, initramfs, boot, agent, service, volumes}``; raises nothing that a part raised.

    ``agent`` is {state, reason, hint, status}, with the daemon's own document in ``status`` or None; ``service`` has
    at least {state, url, version, reason, code}; ``tee`` is probe.describe's, ``boot`` agent.boot.report's
    or None, ``volumes`` list_volumes'.
    """
    agent = _agent(config.daemon.runtime_dir / "agent.sock")
    return {
        "version": __version__,
        "at": rfc3339(at),
        "config": config.source,
        "tee": probe.describe(config.evidence),
        "initramfs": asdict(_measured(config, agent)),
        "boot": report.read(),
        "agent": agent,
        "service": agent["status"]["service"] if agent["status"] else _service(config),
        "volumes": [asdict(volume) for volume in list_volumes(config.volumes)],
    }


def _measured(config: Config, agent: dict[str, Any]) -> Measured:
    """From the evidence that the daemon has for its key: status has none made."""
    if agent["status"] is None or not agent["status"]["ready"]:
        return Measured(
            "unknown", "the agent, which would have evidence, gives none; tee-agent preflight has some made"
        )
    return measured.seen(config, Deadline(AGENT_SECONDS, "agent"))


def _agent(socket: Path) -> dict[str, Any]:
    try:
        status = Client(socket).status(Deadline(AGENT_SECONDS, "agent"))
    except Denied as error:
        return _silent("no permission", error)
    except TeeAgentError as error:
        return _silent("not running", error)
    return {"state": "running", "reason": "", "hint": "", "status": status}


def _silent(state: str, error: TeeAgentError) -> dict[str, Any]:
    return {"state": state, "reason": error.message, "hint": error.hint, "status": None}


def _service(config: Config) -> dict[str, Any]:
    """Without the daemon we ask ourselves: version and a nonce, which shows that the API key is good."""
    known = {"url": config.tas.url if config.tas else "", "version": "", "reason": "", "code": ""}
    if config.tas is None:
        return {**known, "state": "not-configured"}
    deadline = Deadline(SERVICE_SECONDS, "attestation service")
    try:
        # The quoter is never asked here: version and nonce need no evidence.
        client = open_tas(config, quotes=RemoteQuoter(config.daemon.runtime_dir / "quoter.sock"))
        version, _ = client.version(deadline), client.nonce(deadline)
    except ConfigError as error:
        return {**known, "state": "not asked", "reason": error.message, "code": error.code}
    except TeeAgentError as error:
        return {**known, "state": "unreachable", "reason": error.message, "code": error.code}
    return {**known, "state": "reachable", "version": version}
