"""Evidence of this machine, now: purpose ``collect`` over a fresh nonce, through the daemon's quoter or directly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from agent.core import binding, ports
from agent.core.config import Config
from agent.core.errors import BindingMismatch, TransportError
from agent.core.model import Evidence, Tee
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.remote import RemoteQuoter
from agent.quoter import local_scope
from agent.session import local_quotes
from agent.verify.evidence import parse_fields

NONCE_BYTES = 32


def live(config: Config, deadline: ports.Deadline) -> tuple[Tee, Mapping[str, Any]]:
    """Kind and fields (docs/evidence.md) of evidence made for this call; the vendor's signature is not verified.

    Raises PlatformError, FirmwareError, FormatError, BindingMismatch for evidence over something else.
    """
    nonce = os.urandom(NONCE_BYTES)
    evidence = _collect(config, nonce, deadline)
    tee, _, fields = parse_fields(evidence.blob)
    if fields["report_data"] != binding.collect(local_scope(config.daemon.audience), nonce).value.hex():
        raise BindingMismatch(
            "the evidence is not over our nonce, boot and audience",
            hint="if the audience in the configuration was changed: restart the daemon",
        )
    return tee, fields


def _collect(config: Config, nonce: bytes, deadline: ports.Deadline) -> Evidence:
    socket = socket_path(config.daemon.runtime_dir, QUOTER)
    if socket.is_socket():
        try:
            return RemoteQuoter(socket).collect(nonce, deadline=deadline)
        except TransportError:
            # What a stopped daemon left; a deadline that passed ends the next call too.
            deadline.remaining()
    return local_quotes(config).collect(nonce, deadline=deadline)
