"""Client of tee-agent's local socket for applications: one file, standard library only, nothing else of tee-agent.

::

    with tee_agent_client.Agent() as agent:
        bundle = agent.sign(b"order 4711", context="orders")        # verifies offline: tee-agent verify
        agent.create_key("orders", "jws", algorithm="ECDSA-P256")
        token = agent.sign(b'{"order": 4711}', key="orders", context="orders")

An ``Agent`` keeps one connection and may be shared by threads, which take turns. What the agent refuses is an
``AgentError`` with its stable code; what can't be reached at all is ``Unreachable``. docs/api.md has the endpoints.
"""

from __future__ import annotations

import base64
import http.client
import json
import select
import socket
import threading
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["SOCKET", "Agent", "AgentError", "Payload", "Unreachable"]

SOCKET = "/run/tee-agent/agent.sock"
MAX_ANSWER = 16 << 20
"""Bytes of an answer that are read at the most."""
CHUNK = 1 << 18

BATCH = "application/vnd.tee-agent.batch+json"
COMPACT = "application/vnd.tee-agent.compact+json"
JSON = "application/json"
OCTETS = "application/octet-stream"
PROBLEM = "application/problem+json"

Payload = bytes | Path | IO[bytes] | Iterable[bytes]
"""What is signed: bytes, a file by its path, an open binary file, or chunks."""


class AgentError(Exception):
    """The agent refused. ``code`` is stable (docs/api.md); ``retry_after`` in seconds, 0 where waiting won't help."""

    def __init__(self, status: int, code: str, detail: str, hint: str = "", retry_after: float = 0.0) -> None:
        super().__init__(f"{detail} [{code}]" + (f"; {hint}" if hint else ""))
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.retry_after = retry_after


class Unreachable(AgentError):
    """No agent answered in time, or what answered is not one; ``code`` is ``transport`` or ``protocol``."""

    def __init__(self, detail: str, code: str = "transport") -> None:
        super().__init__(0, code, detail, "is the daemon running? systemctl status tee-agent-signer")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def stale(self) -> bool:
        """True when the other side closed it while it was idle: nothing that is sent there would be read."""
        return self.sock is not None and bool(select.select([self.sock], [], [], 0)[0])


class Agent:
    """The agent behind ``path``. ``timeout``: seconds for each read and write; evidence may take half a minute."""

    def __init__(self, path: str | Path = SOCKET, timeout: float = 90.0) -> None:
        self._path = str(path)
        self._connection = _Connection(self._path, timeout)
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        self._connection.close()

    # Signatures

    def sign(
        self,
        payload: Payload,
        *,
        key: str = "",
        context: str = "",
        audience: str = "",
        compact: bool = False,
        fresh: bool = False,
        **options: str,
    ) -> bytes:
        """Sign ``payload``, in constant memory if it is a file or chunks.

        Without ``key``, by the agent's own: a bundle. By a named key: what its use says (docs/keys.md). ``compact``
        leaves out what ``attachments`` gives once for many; ``fresh`` has evidence made now. ``options`` are other
        names of the query: ``namespace``, ``generation``, ``typ``, ``nonce``...
        """
        given = {"context": context, "audience": audience, "fresh": "true" if fresh else "", **options}
        headers = {"Content-Type": OCTETS, **({"Accept": COMPACT} if compact else {})}
        return self.request("POST", _signing(key, given), payload, headers)

    def sign_batch(self, payloads: Sequence[bytes], *, key: str = "", **options: str) -> dict[str, Any]:
        """Up to 1,000 payloads in one request: ``{"attachments": ..., "signatures": [...]}``."""
        document = {"payloads": [{"data": _b64(payload)} for payload in payloads]}
        return self._json("POST", _signing(key, options), document, BATCH)

    def challenge(self, nonce: bytes, **fields: Any) -> bytes:
        """A bundle with evidence made after the relying party's ``nonce`` (16 to 64 bytes) came here.

        ``fields``: context, audience, claims, payload (as ``{"alg", "digest", "size"}``).
        """
        body = json.dumps({"nonce": nonce.hex(), **fields}).encode()
        return self.request("POST", "/v1/challenge", body, {"Content-Type": JSON})

    def attachments(self, digest: str) -> bytes:
        """What compact bundles name by this digest (hex)."""
        return self.request("GET", f"/v1/attachments/{_quoted(digest)}")

    def verify(self, document: bytes, **fields: Any) -> dict[str, Any]:
        """The verdict on a bundle or signed document. ``fields`` as in docs/api.md: policy or any_workload, nonce..."""
        return self._json("POST", "/v1/verify", {"document": _b64(document), **fields})

    # Keys

    def list_keys(self) -> list[dict[str, Any]]:
        """The agent's own key, then the named ones that this caller may see."""
        found = self._json("GET", "/v1/keys")["keys"]
        return list(found)

    def create_key(self, name: str, use: str, algorithm: str = "Ed25519", **fields: Any) -> dict[str, Any]:
        """A new key: its description. ``fields``: lifetime_seconds, namespace, persistent."""
        return self._json("POST", "/v1/keys", {"name": name, "use": use, "algorithm": algorithm, **fields})

    def key(self, name: str, **options: str) -> dict[str, Any]:
        """A key's description; ``options``: namespace, generation."""
        return self._json("GET", _key(name, "", options))

    def rotate_key(self, name: str, overlap_seconds: int = 3600, **options: str) -> dict[str, Any]:
        """A new private key under the same name; the old one can be asked for until the overlap ends."""
        return self._json("POST", _key(name, "/rotate", options), {"overlap_seconds": overlap_seconds})

    def destroy_key(self, name: str, **options: str) -> None:
        """All generations, for good."""
        self._json("DELETE", _key(name, "", options))

    def attestation(self, name: str, **options: str) -> bytes:
        """The key document for relying parties: public key, statement, evidence."""
        return self.request("GET", _key(name, "/attestation", options))

    # Secrets

    def seal(self, data: bytes, context: str = "") -> bytes:
        """``data`` so that only this TEE and this caller's namespace can open it again."""
        return self.request("POST", _path("/v1/seal", {"context": context}), data, {"Content-Type": OCTETS})

    def unseal(self, sealed: bytes, context: str = "") -> bytes:
        """The way back."""
        return self.request("POST", _path("/v1/unseal", {"context": context}), sealed, {"Content-Type": OCTETS})

    def secret(self, name: str) -> bytes:
        """A secret that the attestation service releases to this machine, and the policy to this caller."""
        return self.request("POST", f"/v1/secrets/{_quoted(name)}", b"", {})

    def list_secrets(self) -> list[dict[str, Any]]:
        """Which there are for this caller."""
        found = self._json("GET", "/v1/secrets")["secrets"]
        return list(found)

    # The agent

    def status(self) -> dict[str, Any]:
        """How it is."""
        return self._json("GET", "/v1/status")

    def request(
        self, method: str, path: str, body: Payload | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Any endpoint: the body of its answer. Raises AgentError, Unreachable."""
        with self._turn:
            try:
                return self._converse(method, path, body, headers or {})
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                code = "transport" if isinstance(error, OSError) else "protocol"
                raise Unreachable(f"{self._path}: {error or type(error).__name__}", code) from error
            except BaseException:
                self._connection.close()
                raise

    def _converse(self, method: str, path: str, body: Payload | None, headers: Mapping[str, str]) -> bytes:
        link = self._connection
        if link.stale():
            link.close()
        if isinstance(body, Path):
            with body.open("rb") as file:
                return self._converse(method, path, file, headers)
        sent = body if body is None or isinstance(body, bytes) else _chunks(body)
        try:
            link.request(method, path, sent, dict(headers))
        except BrokenPipeError:
            pass  # refused before all of the body was read: the reason is there to be read
        answer = link.getresponse()
        data = answer.read(MAX_ANSWER + 1)
        if len(data) > MAX_ANSWER:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER} bytes")
        if answer.status not in (http.client.OK, http.client.CREATED):
            link.close()
            raise _refusal(answer, data)
        return data

    def _json(
        self, method: str, path: str, document: Mapping[str, Any] | None = None, media_type: str = JSON
    ) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        headers = {} if body is None else {"Content-Type": media_type}
        return _object(self.request(method, path, body, headers))


def _refusal(answer: http.client.HTTPResponse, data: bytes) -> AgentError:
    if answer.getheader("Content-Type", "").partition(";")[0] != PROBLEM:
        return Unreachable(f"answered {answer.status} without a reason", "protocol")
    problem = _object(data)
    wait = answer.getheader("Retry-After", "")
    code, detail, hint = (str(problem.get(name, "")) for name in ("code", "detail", "hint"))
    return AgentError(answer.status, code, detail, hint, float(wait) if wait.isdecimal() else 0.0)


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreachable("the answer is not JSON", "protocol") from error
    if not isinstance(document, dict):
        raise Unreachable("the answer is not a JSON object", "protocol")
    return document


def _chunks(body: IO[bytes] | Iterable[bytes]) -> Iterable[bytes]:
    read = getattr(body, "read", None)
    return iter(lambda: read(CHUNK), b"") if read else body


def _signing(key: str, options: Mapping[str, str]) -> str:
    return _key(key, "/sign", options) if key else _path("/v1/sign", options)


def _key(name: str, after: str, options: Mapping[str, str]) -> str:
    return _path(f"/v1/keys/{_quoted(name)}{after}", options)


def _path(path: str, options: Mapping[str, str]) -> str:
    query = urllib.parse.urlencode({name: value for name, value in options.items() if value})
    return f"{path}?{query}" if query else path


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
