"""From the JSON body of get_secret to typed values, in the order that the wire has (TAS-PROTOCOL, section 1).

Two steps, since the nonce is spent between them: ``opening`` reads what may be wrong without costing the nonce,
``parse`` the rest. Each failure is a ``Refused`` with the status and the one text that the client sees; its message,
which may say more, is for the log only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.core.errors import Denied, FormatError
from agent.core.model import Endorsements, Nonce, Tee
from tas.store import valid_id

MAX_EVIDENCE = 1 << 16
"""Bytes: an SNP report has 1184, a TDX quote with its certificates about 5000, its buffer up to 16384."""
MAX_KEY = 1 << 13
"""Bytes: an RSA-4096 key as PEM has 800."""
MAX_HINTS = 16
MAX_HINT = 1 << 14
"""Certificates in a request, and bytes of each."""

VERIFICATION_FAILED = "TEE verification failed"


class Refused(Denied):
    """``status`` and ``text`` go to the client; ``message`` and ``code`` go to the log."""

    def __init__(self, status: int, text: str, message: str = "", *, code: str) -> None:
        super().__init__(message or text, code=code)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """``wrapping_key`` is hashed exactly as sent; ``hints`` are certificates that nobody has vouched for yet."""

    tee: Tee
    nonce: Nonce
    policy_id: str
    evidence: bytes
    wrapping_key: bytes
    hints: Endorsements


def opening(body: Mapping[str, Any]) -> tuple[Tee, Nonce]:
    """TEE and nonce; a nonce that can't be one is refused here, before any store is asked (section 6, point 1)."""
    tee_type, text = body.get("tee-type"), body.get("nonce")
    if tee_type not in tuple(Tee):
        raise Refused(400, "Invalid or missing 'tee-type' field", code="denied.tee-type")
    if not text:
        raise Refused(400, "Nonce is required", code="denied.nonce-missing")
    try:
        # Some agents send the nonce with its JSON quotes still on.
        return Tee(tee_type), Nonce(text.strip('"') if isinstance(text, str) else "")
    except FormatError as exc:
        raise bad_nonce(exc.message) from exc


def bad_nonce(message: str) -> Refused:
    return Refused(401, "Invalid or expired nonce", message, code="denied.nonce")


def parse(body: Mapping[str, Any], tee: Tee, nonce: Nonce) -> SecretRequest:
    """The other fields, after the nonce was spent. Unknown ones are ignored, as on the wire. Raises Refused."""
    evidence = _text(body, "tee-evidence", "TEE evidence is required")
    policy_id = _text(body, "policy-id", "Policy ID is required")
    # Anything but true would leave the wrapping key unbound: never accepted (section 6, point 6).
    if body.get("report-data-binding") is not True:
        raise Refused(400, "Report data binding is required", code="denied.unbound")
    key = body.get("wrapping-key")
    if not key:
        raise Refused(400, "Client's wrapping key is required", code="denied.wrapping-key")
    wrapping_key = _decode(key, MAX_KEY)
    if not wrapping_key:
        raise Refused(400, "Invalid encoding format for wrapping key", code="denied.wrapping-key")
    if body.get("component-evidence") is not None:
        raise Refused(400, "Component evidence is not supported", code="denied.component-evidence")
    blob = _decode(evidence, MAX_EVIDENCE)
    if not blob:
        raise failed("evidence is no base64, or too long", code="format.evidence")
    if not valid_id(policy_id):
        raise failed("no policy can have this id", code="denied.policy-unknown")
    return SecretRequest(tee, nonce, policy_id, blob, wrapping_key, _hints(body.get("endorsements")))


def failed(message: str, *, code: str) -> Refused:
    """The one answer to everything that is wrong with evidence or policy."""
    return Refused(400, VERIFICATION_FAILED, message, code=code)


def _text(body: Mapping[str, Any], name: str, text: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, text, code=f"denied.{name}")
    return value


def _decode(value: Any, limit: int) -> bytes:
    """Strict base64 of at most ``limit`` bytes; empty if it is anything else."""
    if not isinstance(value, str) or len(value) > limit * 4 // 3 + 4:
        return b""
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return data if len(data) <= limit else b""


def _hints(value: Any) -> Endorsements:
    if value is None:
        return Endorsements()
    listed = value.get("certificates", []) if isinstance(value, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_HINTS:
        raise Refused(400, "Invalid endorsements", code="denied.endorsements")
    certificates = tuple(_decode(item, MAX_HINT) for item in listed)
    if not all(certificates):
        raise Refused(400, "Invalid endorsements", code="denied.endorsements")
    return Endorsements(certificates=certificates)
