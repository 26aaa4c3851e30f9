"""Client of tee-agent's local socket for applications: one file, Python's own library (3.11 or newer), nothing else.

::

    with tee_agent_client.Agent() as agent:
        bundle = agent.sign(b"order 4711", context="orders")        # verifies offline: tee-agent verify
        agent.create_key("orders", "jws", algorithm="ECDSA-P256")
        token = agent.sign(b'{"order": 4711}', key="orders", context="orders")

An ``Agent`` keeps one connection and may be shared by threads, which take turns; a forked process makes its own. What
the agent refuses is an ``AgentError`` with its stable code; what can't be reached, or is cut off, is ``Unreachable``.
Nothing is asked a second time: the agent may have signed before it left. docs/api.md has the endpoints.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote, urlencode

__all__ = ["SOCKET", "Agent", "AgentError", "Payload", "Unreachable"]

SOCKET = "/run/tee-agent/agent.sock"
MAX_ANSWER = 16 << 20  # bytes of an answer that are read at the most
CHUNK = 1 << 18  # bytes of a body that are read from a file at a time, or copied behind a head
BATCH = "application/vnd.tee-agent.batch+json"
COMPACT = "application/vnd.tee-agent.compact+json"
JSON, OCTETS, PROBLEM = "application/json", "application/octet-stream", "application/problem+json"

Payload = bytes | bytearray | memoryview | Path | IO[bytes] | Iterable[bytes]  # a file by its path, or open; or chunks


class AgentError(Exception):
    """The agent refused. ``code`` is stable (docs/api.md); ``retry_after`` in seconds, 0 where waiting won't help."""

    verdict: Mapping[str, Any] | None = None  # all that ``verify`` said, where it said no

    def __init__(self, status: int, code: str, detail: str, hint: str = "", retry_after: float = 0.0) -> None:
        super().__init__(f"{detail} [{code}]" + (f"; {hint}" if hint else ""))
        self.status, self.code, self.detail, self.hint, self.retry_after = status, code, detail, hint, retry_after


class Unreachable(AgentError):
    """No agent answered in time, or what answered is not one; ``code`` is ``transport`` or ``protocol``."""

    def __init__(self, detail: str, code: str = "transport") -> None:
        super().__init__(0, code, detail, "is the daemon running? systemctl status tee-agent-signer")


class _OwnFault(Exception):
    """The caller's own file can't be read, which is the cause: nothing is wrong with the agent."""


class _Socket(socket.socket):
    until = 0.0  # reads no longer: who sends a byte now and then keeps nobody waiting

    def recv_into(self, *args: Any) -> int:
        if (left := self.until - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*args)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("agent")
        self.path, self.seconds, self._owner, self._behind = path, seconds, 0, b""

    def connect(self) -> None:
        self.sock = self._made = _Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.seconds)
        self.sock.connect(self.path)
        self._owner = os.getpid()

    def prepare(self) -> None:
        """Hang up where the other side did while it was idle, or where the answers are another process's."""
        if self.sock is not None:
            (poll := select.poll()).register(self.sock, select.POLLIN)
            self.sock.settimeout(self.seconds)
            if self._owner != os.getpid() or poll.poll(0):
                self.close()

    def endheaders(self, message_body: Any = None, *, encode_chunked: bool = False) -> None:
        """A body of some bytes goes out behind its head in one piece: the agent answers such requests sooner."""
        some = isinstance(message_body, bytes | bytearray | memoryview) and memoryview(message_body).nbytes <= CHUNK
        self._behind = message_body if some else b""
        super().endheaders(None if some else message_body, encode_chunked=encode_chunked)

    def send(self, data: Any) -> None:
        if self._behind:
            data, self._behind = data + self._behind, b""
        super().send(data)

    def answer(self) -> tuple[http.client.HTTPResponse, bytes]:
        """The answer, whole and in time."""
        self._made.until = time.monotonic() + self.seconds
        with self.getresponse() as answer:
            data = answer.read(MAX_ANSWER + 1)
            if len(data) > MAX_ANSWER:
                raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER} bytes")
            if answer.length != 0:
                raise http.client.HTTPException("an answer that is cut off, or does not say where it ends")
        return answer, data


class Agent:
    """The agent behind ``path``. ``timeout``: seconds for a write, and for an answer; evidence may take 30."""

    def __init__(self, path: str | Path = SOCKET, timeout: float = 90.0) -> None:
        self._connection = _Connection(str(path), timeout)
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, after the request under way; the next one makes a new one."""
        with self._turn:
            self._connection.close()

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
        return self.request("POST", _key(key, "/sign", given), payload, headers)

    def sign_batch(self, payloads: Sequence[bytes], *, key: str = "", **options: str) -> dict[str, Any]:
        """Up to 1,000 payloads in one request: ``{"attachments": ..., "signatures": [...]}``."""
        document = {"payloads": [{"data": base64.b64encode(payload).decode()} for payload in payloads]}
        return self._json("POST", _key(key, "/sign", options), document, BATCH)

    def challenge(self, nonce: bytes, **fields: Any) -> bytes:
        """A bundle with evidence made after ``nonce`` (16 to 64 bytes) came. ``fields``: audience, payload..."""
        document = json.dumps({"nonce": nonce.hex(), **fields}).encode()
        return self.request("POST", "/v1/challenge", document, {"Content-Type": JSON})

    def attachments(self, digest: str) -> bytes:
        """What compact bundles name by this digest (hex)."""
        return self.request("GET", f"/v1/attachments/{quote(digest, safe='')}")

    def verify(self, document: bytes, **fields: Any) -> dict[str, Any]:
        """The verdict, where it is good; else AgentError has it. ``fields``: policy or any_workload... (docs/api.md)"""
        return self._json("POST", "/v1/verify", {"document": {"data": base64.b64encode(document).decode()}, **fields})

    def list_keys(self) -> list[dict[str, Any]]:
        """The agent's own key, then the named ones that this caller may see."""
        return _list(self._json("GET", "/v1/keys"), "keys")

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

    def seal(self, data: bytes, context: str = "") -> bytes:
        """``data`` so that only this TEE and this caller's namespace can open it again."""
        return self.request("POST", _path("/v1/seal", {"context": context}), data, {"Content-Type": OCTETS})

    def unseal(self, sealed: bytes, context: str = "") -> bytes:
        """The way back."""
        return self.request("POST", _path("/v1/unseal", {"context": context}), sealed, {"Content-Type": OCTETS})

    def secret(self, name: str) -> bytes:
        """A secret that the attestation service releases to this machine, and the policy to this caller."""
        return self.request("POST", f"/v1/secrets/{quote(name, safe='')}", b"", {})

    def list_secrets(self) -> list[dict[str, Any]]:
        """Which there are for this caller."""
        return _list(self._json("GET", "/v1/secrets"), "secrets")

    def status(self) -> dict[str, Any]:
        """How it is."""
        return self._json("GET", "/v1/status")

    def request(
        self, method: str, path: str, body: Payload | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Any endpoint: the body of its answer. Raises AgentError, Unreachable, and what reading ``body`` raises."""
        if isinstance(body, Path):
            with body.open("rb") as file:
                return self.request(method, path, file, headers)
        sent = body if body is None or isinstance(body, bytes | bytearray | memoryview) else _chunks(body)
        try:
            with self._turn:
                return self._converse(method, path, sent, headers or {})
        except (OSError, http.client.HTTPException) as error:
            code = "transport" if isinstance(error, OSError) else "protocol"
            raise Unreachable(f"{self._connection.path}: {str(error) or type(error).__name__}", code) from error
        except _OwnFault as fault:
            raise (fault.__cause__ or fault) from None

    def _converse(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> bytes:
        link = self._connection
        try:
            link.prepare()
            with suppress(BrokenPipeError):  # refused before all of it was read: the reason is there to be read
                link.request(method, path, body, dict(headers))
            return _good(*link.answer())
        except BaseException:
            link.close()
            self._connection = _Connection(link.path, link.seconds)  # the old one may hold half a head
            raise

    def _json(self, method: str, path: str, document: Any = None, media_type: str = JSON) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        return _object(self.request(method, path, body, {"Content-Type": media_type} if body else {}))


def _good(answer: http.client.HTTPResponse, data: bytes) -> bytes:
    if answer.status in (http.client.OK, http.client.CREATED):
        return data
    kind, wait = answer.getheader("Content-Type", "").partition(";")[0], answer.getheader("Retry-After", "")
    verdict = answer.status == http.client.UNPROCESSABLE_ENTITY and kind == JSON
    document = _object(data) if verdict or kind == PROBLEM else {}
    said = document.get("error") if verdict else document
    if not isinstance(said, dict) or not said:
        raise Unreachable(f"answered {answer.status} without a reason", "protocol")
    code, hint, detail = (str(said.get(name, "")) for name in ("code", "hint", "message" if verdict else "detail"))
    error = AgentError(answer.status, code, detail, hint, float(wait) if wait.isdecimal() and len(wait) < 9 else 0.0)
    error.verdict = document if verdict else None
    raise error


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreachable("the answer is not JSON", "protocol") from error
    if not isinstance(document, dict):
        raise Unreachable("the answer is not a JSON object", "protocol")
    return document


def _list(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    if not isinstance(found := document.get(name), list):
        raise Unreachable(f"the answer has no {name}", "protocol")
    return found


def _chunks(body: IO[bytes] | Iterable[bytes]) -> Iterator[bytes]:
    read = getattr(body, "read", None)
    try:
        if read is None:
            yield from body
        while read and (chunk := read(CHUNK)):
            yield chunk
    except OSError as error:
        raise _OwnFault from error


def _key(name: str, after: str, options: Mapping[str, str]) -> str:
    return _path((f"/v1/keys/{quote(name, safe='')}" if name else "/v1") + after, options)


def _path(path: str, options: Mapping[str, str]) -> str:
    query = urlencode({name: value for name, value in options.items() if value})
    return f"{path}?{query}" if query else path
