"""What the attestation service's refusals mean, and whether asking again can help.

Source: the protocol's table of failure classes. One text stands for many causes there ("TEE verification failed"),
so the hints say where the cause is to be found. Texts of the peer are shown shortened and without control characters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from agent.core.errors import Denied, ProtocolError, ServerError, TeeAgentError
from agent.core.ports import Response

MAX_RETRY_AFTER = 3600
"""Seconds; a peer that wishes for more is asked again after this."""

_SPENT = frozenset({"Invalid or expired nonce", "Nonce has expired"})
_MAX_TEXT = 200


class Step(StrEnum):
    """Which question was answered; the value is its name in messages."""

    VERSION = "version"
    NONCE = "get_nonce"
    RELEASE = "get_secret"
    HEAD = "audit head"


_HINTS = {
    "TEE verification failed": (
        "denied.attestation",
        "its log has the reason; a service from before report-data binding (March 2026) is not supported",
    ),
    "Policy ID is required": ("denied.field", 'this service wants policy ids: set secret_field = "policy-id"'),
    "Key ID is required": ("denied.field", 'this service is an older one: set secret_field = "key-id"'),
    "Secret retrieval failed": ("denied.no-secret", "the policy names a secret that the key broker does not have"),
}


def document(response: Response) -> Mapping[str, Any]:
    """The answer's JSON object. Raises ProtocolError."""
    try:
        value = json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the service's answer is not JSON", code="protocol.answer") from error
    if not isinstance(value, dict):
        raise ProtocolError("the service's answer is not a JSON object", code="protocol.answer")
    return value


def refusal(response: Response, step: Step) -> TeeAgentError:
    """The error for an answer that is not a 200."""
    status, text = response.status, _text(response)
    what = f"{step}: the service answered {status}" + (f" ({text})" if text else "")
    if status in (408, 429) or 500 <= status <= 599:
        return ServerError(what, retry_after=_retry_after(response))
    if status == 401 and step is Step.RELEASE and text in _SPENT:
        return ServerError(what, hint="the nonce was too old: evidence took too long", code="server.nonce")
    if status in (401, 403):
        return Denied(what, hint="check the key in tas.api_key_file", code="denied.api-key")
    if step in (Step.RELEASE, Step.HEAD) and (status == 400 or text in _HINTS):
        code, hint = _HINTS.get(text, ("", ""))
        return Denied(what, hint=hint, code=code)
    if 300 <= status <= 399:
        return ProtocolError(what, hint="redirects are not followed: set tas.url to the service itself")
    return ProtocolError(what, hint="is tas.url an attestation service, of a version that is supported?")


def _text(response: Response) -> str:
    """The peer's own words: its JSON "error", shortened, printable."""
    try:
        value = document(response).get("error", "")
    except ProtocolError:
        return ""
    if not isinstance(value, str):
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in value[:_MAX_TEXT])


def _retry_after(response: Response) -> float:
    """Whole seconds of Retry-After on 429 and 503; dates are not read, for this machine's clock proves nothing."""
    wish = response.headers.get("retry-after", "").strip()
    if response.status not in (429, 503) or not (wish.isascii() and wish.isdigit()):
        return 0.0
    return float(min(int(wish[:9]), MAX_RETRY_AFTER))
