"""GET /v1/openapi.json: what this socket understands, as OpenAPI 3.1 (docs/openapi.yaml is its source)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.core.access import Decision, Wish
from agent.core.errors import ConfigError
from agent.daemon import body
from agent.daemon.dispatch import Act, Call, as_bytes
from agent.daemon.web import Response

DOCUMENT = Path(__file__).with_name("openapi.json")


def load() -> bytes:
    """The document. Read it while our own files can be read: the signer's user may be unable to. Raises ConfigError."""
    try:
        return DOCUMENT.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{DOCUMENT}: {error.strerror}",
            hint="a file of this program is missing: install it again",
            code="config.missing",
        ) from error


@dataclass(frozen=True, slots=True)
class Description:
    """The endpoint."""

    data: bytes

    async def show(self, call: Call) -> tuple[Wish, Act]:
        """The document, the same for everybody."""
        body.query(call.request, frozenset())

        async def act(_: Decision) -> Response:
            return as_bytes(self.data, "application/json")

        return Wish("status"), act
