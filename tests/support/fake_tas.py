"""A loopback attestation service for the client's tests: honest by default, and lying, slow or huge when told so.

It speaks the wire format by itself (no code of tas/ or of the agent's protocol module), releases ``SECRET`` to any
request whose evidence carries SHA-512(nonce || wrapping key), and replays scripted answers byte for byte.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

SECRET = bytes(range(32))
API_KEY = "k" * 64


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.body)
        return loaded


Reply = Iterable[bytes]
Script = Callable[[Seen], Reply]


def _only_tls_1_1(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings(action="ignore"):
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1


def http(status: int, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A complete HTTP/1.1 answer; ``length`` lies about its size."""
    head = [f"HTTP/1.1 {status} X", "Connection: close", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + body


def answer(status: int, value: object, *headers: str) -> Script:
    """The same JSON answer to whatever was asked."""
    data = http(status, json.dumps(value).encode(), "Content-Type: application/json", *headers)
    return lambda _: [data]


def raw(*chunks: bytes) -> Script:
    """These bytes, whatever was asked."""
    return lambda _: chunks


@dataclass
class FakeTas:
    """``with FakeTas(chain) as tas: tas.url``. ``chain`` is a PEM file with key and certificates; None: plain http.

    ``secret_script`` and ``nonce_script`` hold answers to come, first used first; after them it is honest.
    ``ending`` is set when the server stops: slow answers wait on it.
    """

    chain: Path | None = None
    secret: bytes = SECRET
    algorithm: str = "AES-GCM"
    old_tls: bool = False
    nonce_script: deque[Script] = field(default_factory=deque)
    secret_script: deque[Script] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    handshakes: int = 0
    early_bytes: int = 0

    def __enter__(self) -> Self:
        self.ending = threading.Event()
        self._nonces: set[str] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(30)
        self._listener.close()

    @property
    def url(self) -> str:
        return f"{'http' if self.chain is None else 'https'}://127.0.0.1:{self.port}"

    def drip(self, data: bytes) -> Reply:
        """One byte at a time, never ending before the server does."""
        for index in range(len(data)):
            self.ending.wait(0.02)
            yield data[index : index + 1]
        self.ending.wait()

    def _accept(self) -> None:
        context = None
        if self.chain is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.chain)
            if self.old_tls:
                _only_tls_1_1(context)
        while not self.ending.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection, context), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket, context: ssl.SSLContext | None) -> None:
        plain.settimeout(30)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(plain)
            connection: socket.socket = plain
            if context is not None:
                connection = stack.enter_context(context.wrap_socket(plain, server_side=True))
            self.handshakes += 1
            request = self._read(connection)
            if request is not None:
                for chunk in self._reply(request):
                    connection.sendall(chunk)

    def _read(self, connection: socket.socket) -> Seen | None:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            self.early_bytes += len(chunk)
            if not chunk:
                return None
            data += chunk
        head, body = data.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", "0")):
            chunk = connection.recv(65536)
            if not chunk:
                return None
            body += chunk
        method, path, _ = lines[0].split(" ")
        request = Seen(method, path, headers, body)
        self.seen.append(request)
        return request

    def _reply(self, request: Seen) -> Reply:
        if request.path.endswith("/version"):
            return answer(200, {"version": "0.1.0"})(request)
        if request.path == "/tee-agent/v1/audit-head":
            return answer(404, {"error": "not found"})(request)  # no service has to take them
        script = self.nonce_script if request.path.endswith("get_nonce") else self.secret_script
        if script:
            return script.popleft()(request)
        if request.headers.get("x-api-key") != API_KEY:
            return answer(401, {"error": "Unauthorized"})(request)
        return self._nonce() if script is self.nonce_script else self._release(request)

    def _nonce(self) -> Reply:
        nonce = os.urandom(32).hex()
        self._nonces.add(nonce)
        return [http(200, json.dumps({"nonce": nonce}).encode())]

    def _release(self, request: Seen) -> Reply:
        body = request.json
        if body["nonce"] not in self._nonces:
            return answer(401, {"error": "Invalid or expired nonce"})(request)
        self._nonces.remove(body["nonce"])
        key = base64.b64decode(body["wrapping-key"])
        bound = hashlib.sha512(body["nonce"].encode() + key).digest()
        if body["report-data-binding"] is not True or bound not in base64.b64decode(body["tee-evidence"]):
            return answer(400, {"error": "TEE verification failed"})(request)
        return answer(200, {"secret_key": wrap(key, self.secret, self.algorithm)})(request)


def wrap(key_der: bytes, secret: bytes, algorithm: str = "AES-GCM") -> dict[str, str]:
    """The ``secret_key`` object for a PKCS#1 DER key."""
    public = load_der_public_key(key_der)
    assert isinstance(public, rsa.RSAPublicKey)
    key = os.urandom(32)
    oaep = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
    if algorithm == "AES-KWP":
        parts = {"blob": aes_key_wrap_with_padding(key, secret), "iv": b"", "tag": b"", "algorithm": b"AES-KWP"}
    else:
        iv = os.urandom(12)
        sealed = AESGCM(key).encrypt(iv, secret, None)
        parts = {"blob": sealed[:-16], "iv": iv, "tag": sealed[-16:]}
    parts["wrapped_key"] = public.encrypt(key, oaep)
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A loopback port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
