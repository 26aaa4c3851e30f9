"""GET /v1/attachments/DIGEST: what compact bundles name by its digest (docs/bundle.md), for who may list the key."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agent.core import attachdoc
from agent.core.access import Decision, Wish
from agent.core.errors import UsageError
from agent.daemon import body
from agent.daemon.attachments import AGENT, Kept
from agent.daemon.dispatch import Act, Call, as_bytes
from agent.daemon.formats import accepted
from agent.daemon.web import Response

_DIGEST = re.compile(r"[0-9a-f]{128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AttachmentApi:
    """The endpoint over what is kept."""

    kept: Kept

    async def show(self, call: Call) -> tuple[Wish, Act]:
        """The document, byte for byte what the digest is of."""
        body.query(call.request, frozenset())
        if not _DIGEST.fullmatch(call.name):
            raise UsageError("the digest of attachments has 128 lower-case hex digits")
        found = self.kept.find(bytes.fromhex(call.name))

        async def act(_: Decision) -> Response:
            media_type = accepted(call.request, attachdoc.MEDIA_TYPE)
            if found is None:
                raise UsageError(
                    "no attachments of this digest are kept",
                    hint="ask when the signature was made; later, take a whole bundle or the key's document",
                    code="usage.attachments",
                )
            return as_bytes(found.document, media_type)

        return Wish("keys.list", key=found.key if found else AGENT), act
