"""The attestation service's protocol as a state machine on bytes: no sockets, no clock, no randomness.

One ``Attempt`` is one nonce, one key, one piece of evidence. Its nonce counts as spent as soon as the request that
carries it is built, whatever comes back: a retry is a new Attempt. Answers sort into: a value; Denied, ProtocolError
(final); ServerError (try again with a new Attempt). ``report-data-binding`` is always true, under both field names.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agent.core.config import DEFAULT_FIELD, PolicyField
from agent.core.errors import ProtocolError, UsageError
from agent.core.model import Endorsements, Evidence, Nonce
from agent.core.ports import Response
from agent.core.replies import Step, document, refusal

NONCE_PATH = "/kb/v0/get_nonce"
RELEASE_PATH = "/kb/v0/get_secret"
VERSION_PATH = "/version"

MAX_REQUEST = 2 * 1024 * 1024
"""Bytes of a request body that the service takes."""
MAX_HINTS = 64 * 1024
"""Bytes of endorsement certificates sent along, before base64."""
MAX_WRAPPED_KEY = 1024

Algorithm = Literal["AES-GCM", "AES-KWP"]
_KWP: Final = "AES-KWP"
_GCM_IV, _GCM_TAG, _KWP_LEAST = 12, 16, 16


@dataclass(frozen=True, slots=True)
class Request:
    """What to send; the API key is added by whoever holds it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A released secret, still encrypted. ``iv`` (12 bytes) and ``tag`` (16 bytes) are empty for AES-KWP.

    ``added_root`` True: the service says that it decided under a root that somebody added, not a vendor's.
    """

    algorithm: Algorithm
    wrapped_key: bytes = field(repr=False)
    blob: bytes = field(repr=False)
    iv: bytes = field(repr=False)
    tag: bytes = field(repr=False)
    added_root: bool = False


def version_request() -> Request:
    return Request("GET", VERSION_PATH, {"Accept": "application/json"})


def version_answer(response: Response) -> str:
    """The service's version. Raises Denied, ProtocolError, ServerError."""
    version = _good(response, Step.VERSION).get("version")
    if not isinstance(version, str) or not version.isprintable() or not 0 < len(version) <= 64:
        raise ProtocolError("the service's version is not a short string", code="protocol.version")
    return version


class Attempt:
    """One try at one secret: nonce_request, nonce_answer, secret_request, secret_answer, in that order and once."""

    def __init__(self, policy_id: str, policy_field: PolicyField = DEFAULT_FIELD) -> None:
        self.policy_id = policy_id
        self._field = policy_field
        self._nonce: Nonce | None = None
        self._asked = False

    def nonce_request(self) -> Request:
        return Request("GET", NONCE_PATH, {"Accept": "application/json"})

    def nonce_answer(self, response: Response) -> Nonce:
        """The fresh nonce. Raises Denied, ProtocolError, ServerError."""
        text = _good(response, Step.NONCE).get("nonce")
        self._nonce = parse_nonce(text)
        return self._nonce

    def secret_request(self, evidence: Evidence, wrapping_key: bytes, endorsements: Endorsements) -> Request:
        """The request that spends the nonce. ``wrapping_key``: PKCS#1 DER, the one bound into ``evidence``.

        ``endorsements`` are hints; they are left out where they would not fit. Raises UsageError on a second call.
        """
        if self._nonce is None or self._asked:
            raise UsageError("a nonce serves one request: start a new attempt")
        self._asked = True
        body: dict[str, Any] = {
            "tee-type": evidence.tee.value,
            "nonce": self._nonce.text,
            "tee-evidence": _b64(evidence.blob),
            self._field: self.policy_id,
            "report-data-binding": True,
            "wrapping-key": _b64(wrapping_key),
        }
        if 0 < sum(map(len, endorsements.certificates)) <= MAX_HINTS:
            body["endorsements"] = {"certificates": [_b64(der) for der in endorsements.certificates]}
        data = json.dumps(body, separators=(",", ":")).encode("ascii")
        if len(data) > MAX_REQUEST:
            raise ProtocolError(f"the request has {len(data)} bytes, the service takes {MAX_REQUEST}")
        return Request("POST", RELEASE_PATH, {"Content-Type": "application/json", "Accept": "application/json"}, data)

    def secret_answer(self, response: Response) -> Wrapped:
        """The wrapped secret. Raises Denied, ProtocolError, ServerError."""
        answer = _good(response, Step.RELEASE)
        released = answer.get("secret_key")
        if not isinstance(released, dict):
            raise ProtocolError("the answer has no secret_key object", code="protocol.answer")
        return _wrapped(released, added_root=answer.get("trust") == "added-root")


def parse_nonce(text: object) -> Nonce:
    """Exactly 64 lower-case hex characters, else ProtocolError: evidence is made over nothing else."""
    if not isinstance(text, str) or len(text) != 64 or text.strip("0123456789abcdef"):
        raise ProtocolError("the service's nonce is not 64 lower-case hex characters", code="protocol.nonce")
    return Nonce(text)


def _good(response: Response, step: Step) -> Mapping[str, Any]:
    if response.status != 200:
        raise refusal(response, step)
    return document(response)


def _wrapped(released: Mapping[str, Any], *, added_root: bool) -> Wrapped:
    wrapped_key, blob, iv, tag = (_bytes(released, name) for name in ("wrapped_key", "blob", "iv", "tag"))
    return require_form(Wrapped(_algorithm(released), wrapped_key, blob, iv, tag, added_root))


def require_form(wrapped: Wrapped) -> Wrapped:
    """``wrapped``, if its parts have the sizes that its algorithm wants. Raises ProtocolError."""
    iv, tag, blob = wrapped.iv, wrapped.tag, wrapped.blob
    if not 0 < len(wrapped.wrapped_key) <= MAX_WRAPPED_KEY:
        raise ProtocolError(f"wrapped_key has {len(wrapped.wrapped_key)} bytes", code="protocol.answer")
    if wrapped.algorithm == _KWP:
        if iv or tag or len(blob) < _KWP_LEAST or len(blob) % 8:
            raise ProtocolError("AES-KWP has no iv and no tag, and whole 8-byte blocks", code="protocol.answer")
    elif len(iv) != _GCM_IV or len(tag) != _GCM_TAG:
        raise ProtocolError(
            f"AES-GCM needs a 12-byte iv and a 16-byte tag, not {len(iv)} and {len(tag)}", code="protocol.answer"
        )
    return wrapped


def _algorithm(released: Mapping[str, Any]) -> Algorithm:
    """AES-256-GCM is the service's default. Any name but AES-KWP is refused, never taken for the default."""
    if released.get("algorithm", "") == "":
        return "AES-GCM"
    name = _bytes(released, "algorithm")
    if name != _KWP.encode():
        raise ProtocolError("the secret is wrapped by an unknown algorithm", code="protocol.algorithm")
    return "AES-KWP"


def _bytes(released: Mapping[str, Any], name: str) -> bytes:
    value = released.get(name)
    try:
        if not isinstance(value, str):
            raise ProtocolError(f"{name} is missing or not a string", code="protocol.answer")
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"{name} is not base64", code="protocol.answer") from error


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
