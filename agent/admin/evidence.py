"""Evidence of this machine, now: purpose ``collect`` over a nonce, through the daemon's quoter or directly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.core import binding, ports
from agent.core.binding import Scope
from agent.core.config import Config
from agent.core.errors import BindingMismatch, TransportError
from agent.core.model import Evidence, Tee
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.remote import RemoteQuoter
from agent.quoter import local_scope
from agent.session import local_quotes
from agent.verify.evidence import parse_fields

NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Collected:
    """Evidence over ``nonce`` for ``scope``: what a verifier needs to recompute REPORT_DATA. Not verified otherwise."""

    evidence: Evidence
    scope: Scope
    nonce: bytes
    tee: Tee
    version: int
    fields: Mapping[str, Any]


def collect(config: Config, nonce: bytes, deadline: ports.Deadline) -> Collected:
    """Evidence made for this call; ``nonce`` has 16 to 64 bytes.

    Raises PlatformError, FirmwareError, FormatError, BindingMismatch for evidence over something else.
    """
    scope = local_scope(config.daemon.audience)
    wanted = binding.collect(scope, nonce)
    evidence = _ask(config, nonce, deadline)
    tee, version, fields = parse_fields(evidence.blob)
    if fields["report_data"] != wanted.value.hex():
        raise BindingMismatch(
            "the evidence is not over our nonce, boot and audience",
            hint="if the audience in the configuration was changed: restart the daemon",
        )
    return Collected(evidence, scope, nonce, tee, version, fields)


def live(config: Config, deadline: ports.Deadline) -> tuple[Tee, Mapping[str, Any]]:
    """Kind and fields (docs/evidence.md) of evidence over a nonce of our own. Raises as collect."""
    made = collect(config, os.urandom(NONCE_BYTES), deadline)
    return made.tee, made.fields


def _ask(config: Config, nonce: bytes, deadline: ports.Deadline) -> Evidence:
    socket = socket_path(config.daemon.runtime_dir, QUOTER)
    if socket.is_socket():
        try:
            return RemoteQuoter(socket).collect(nonce, deadline=deadline)
        except TransportError:
            # What a stopped daemon left; a deadline that passed ends the next call too.
            deadline.remaining()
    return local_quotes(config).collect(nonce, deadline=deadline)
