"""Client of the agent's own socket, for our commands: errors of our taxonomy, deadlines, one connection per request.

Apps in any language need no library: docs/api.md, and curl.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent.core.errors import DeadlineExceeded, ProtocolError, TeeAgentError, TransportError
from agent.core.ports import Deadline
from agent.daemon import problem
from agent.tee_agent_client import BATCH, Agent, AgentError, Unreachable

ANYTHING = "*/*"
DIGEST = "application/vnd.tee-agent.digest+json"
OCTETS: Mapping[str, str] = MappingProxyType({"Content-Type": "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class Key:
    """A named key as a caller says it: ``namespace`` "" is the caller's own, ``generation`` 0 the newest."""

    name: str
    namespace: str = ""
    generation: int = 0

    def path(self, after: str = "", options: Mapping[str, str] = MappingProxyType({})) -> str:
        """Under /v1/keys, with the query."""
        query = dict(options)
        query |= {"namespace": self.namespace} if self.namespace else {}
        query |= {"generation": str(self.generation)} if self.generation else {}
        path = f"/v1/keys/{urllib.parse.quote(self.name, safe='')}{after}"
        return path + (f"?{urllib.parse.urlencode(query)}" if query else "")


class Client:
    """Talks to ``path`` (agent.sock).

    Every method raises what the agent answered (Denied, ServerError, FirmwareError, ...), TransportError where no
    agent answers, DeadlineExceeded, ProtocolError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self, deadline: Deadline) -> dict[str, Any]:
        """GET /v1/status, as in docs/api.md."""
        return self._json(self._request("GET", "/v1/status", deadline))

    def keys(self, deadline: Deadline) -> dict[str, Any]:
        """GET /v1/keys, as in docs/api.md."""
        return self._json(self._request("GET", "/v1/keys", deadline))

    def sign(
        self, payload: Iterator[bytes], *, context: str, audience: str, deadline: Deadline, accept: str = ANYTHING
    ) -> bytes:
        """A bundle over all chunks of ``payload``, in constant memory; ``accept`` chooses its form."""
        path = _own({"context": context, "audience": audience})
        return self._request("POST", path, deadline, payload, {**OCTETS, "Accept": accept})

    def sign_fresh(
        self,
        which: Key | None,
        digest: Mapping[str, Any],
        options: Mapping[str, str],
        deadline: Deadline,
        accept: str = ANYTHING,
    ) -> bytes:
        """A bundle over what ``digest`` stands for, with evidence made after it came; None: by the agent's own key."""
        given = {**options, "fresh": "true"}
        path = which.path("/sign", given) if which else _own(given)
        headers = {"Content-Type": DIGEST, "Accept": accept}
        return self._request("POST", path, deadline, json.dumps(digest).encode(), headers)

    def create_key(self, document: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """POST /v1/keys with ``document`` as in docs/keys.md: the key's description."""
        return self._json(self._post("/v1/keys", document, deadline))

    def key(self, which: Key, deadline: Deadline) -> dict[str, Any]:
        """The description of a named key's generation."""
        return self._json(self._request("GET", which.path(), deadline))

    def rotate_key(self, which: Key, overlap_seconds: int | None, deadline: Deadline) -> dict[str, Any]:
        """A new generation: its description. None: the agent's own overlap."""
        document = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        return self._json(self._post(which.path("/rotate"), document, deadline))

    def destroy_key(self, which: Key, deadline: Deadline) -> dict[str, Any]:
        """All generations, for good: what was destroyed."""
        return self._json(self._request("DELETE", which.path(), deadline))

    def attestation(self, which: Key, deadline: Deadline) -> bytes:
        """A named key's document for relying parties (docs/formats.md)."""
        return self._request("GET", which.path("/attestation"), deadline)

    def sign_with(
        self,
        which: Key,
        payload: Iterator[bytes],
        options: Mapping[str, str],
        deadline: Deadline,
        accept: str = ANYTHING,
    ) -> bytes:
        """What a named key makes of ``payload``; ``options`` as in docs/keys.md."""
        headers = {**OCTETS, "Accept": accept}
        return self._request("POST", which.path("/sign", options), deadline, payload, headers)

    def batch(
        self, which: Key | None, items: Sequence[Mapping[str, Any]], options: Mapping[str, str], deadline: Deadline
    ) -> dict[str, Any]:
        """Signatures over up to 1,000 ``items`` (``{"data"}`` or ``{"digest"}``); None: by the agent's own key."""
        path = which.path("/sign", options) if which else _own(options)
        body = json.dumps({"payloads": list(items)}).encode()
        return self._json(self._request("POST", path, deadline, body, {"Content-Type": BATCH}))

    def attachments(self, digest: bytes, deadline: Deadline) -> bytes:
        """The attachments document that compact bundles name by this digest."""
        return self._request("GET", f"/v1/attachments/{digest.hex()}", deadline)

    def token(self, which: Key, document: Mapping[str, Any], options: Mapping[str, str], deadline: Deadline) -> bytes:
        """An EAT by a key for it; ``document`` has the nonce."""
        return self._post(which.path("/sign", options), document, deadline)

    def challenge(self, document: Mapping[str, Any], deadline: Deadline, accept: str = ANYTHING) -> bytes:
        """POST /v1/challenge with ``document`` as in docs/api.md: a bundle with evidence over the nonce in it."""
        return self._post("/v1/challenge", document, deadline, accept)

    def seal(self, data: bytes, context: str, deadline: Deadline) -> bytes:
        """POST /v1/seal: a sealed blob (docs/sealing.md)."""
        return self._request("POST", _with_context("/v1/seal", context), deadline, data, OCTETS)

    def unseal(self, blob: bytes, context: str, deadline: Deadline) -> bytes:
        """POST /v1/unseal: what was sealed."""
        return self._request("POST", _with_context("/v1/unseal", context), deadline, blob, OCTETS)

    def secret(self, name: str, deadline: Deadline) -> bytes:
        """POST /v1/secrets/NAME: a secret of the attestation service for this caller."""
        return self._request("POST", f"/v1/secrets/{urllib.parse.quote(name, safe='')}", deadline, b"")

    def secrets(self, deadline: Deadline) -> dict[str, Any]:
        """GET /v1/secrets, as in docs/api.md."""
        return self._json(self._request("GET", "/v1/secrets", deadline))

    def _post(self, path: str, document: Mapping[str, Any], deadline: Deadline, accept: str = ANYTHING) -> bytes:
        body = json.dumps(document).encode()
        return self._request("POST", path, deadline, body, {"Content-Type": "application/json", "Accept": accept})

    def _request(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        try:
            with Agent(self._path, deadline.remaining()) as agent:
                return agent.request(method, path, body, headers)
        except AgentError as error:
            raise _translated(error, self._path) from error

    def _json(self, data: bytes) -> dict[str, Any]:
        return _object(data, self._path)


def _own(options: Mapping[str, str]) -> str:
    query = urllib.parse.urlencode({name: value for name, value in options.items() if value})
    return f"/v1/sign?{query}" if query else "/v1/sign"


def _with_context(path: str, context: str) -> str:
    return f"{path}?{urllib.parse.urlencode({'context': context})}" if context else path


def _translated(error: AgentError, path: Path) -> TeeAgentError:
    """Of our taxonomy."""
    if not isinstance(error, Unreachable):
        said = {"code": error.code, "detail": error.detail, "hint": error.hint}
        return problem.exception(said, error.retry_after)
    if isinstance(error.__cause__, TimeoutError):
        return DeadlineExceeded(f"{path}: the agent did not answer in time")
    if isinstance(error.__cause__, OSError):
        reason = error.__cause__.strerror or error.__cause__
        return TransportError(f"{path}: {reason}", hint=error.hint, code="transport.no-daemon")
    return ProtocolError(f"{path}: what answers there is not the agent: {error.detail}")


def _object(data: bytes, what: object) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what}: the answer is not JSON") from error
    if not isinstance(document, dict):
        raise ProtocolError(f"{what}: the answer is not a JSON object")
    return document
