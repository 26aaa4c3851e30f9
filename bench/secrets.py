"""The attestation service's secrets per second of its own processor time, against its cryptography bare in a loop.

One secret is what one boot asks for: a nonce and get_secret, each over a TLS connection of its own, as the agent
makes them, or both over one, as clients do that keep theirs. Clients, simulator and service share the machine's
processors, so seconds by the clock would say more of the clients: what counts is the processor time of the service's
process, user and system. "Per core" is secrets divided by those seconds: what one core would give out that did
nothing else.

The peer is what the protocol demands and no more, by the same libraries with everything prepared: signatures of the
evidence whose chain is known (SNP: one ECDSA P-384, TDX: two P-256), SHA-512 over nonce and key, AES-256-GCM over the
secret, RSA-OAEP over the AES key, and the server's half of as many TLS connections with what is said in them, without
sockets.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core import binding
from agent.core.config import Pin
from agent.core.exchange import Attempt, Request, Wrapped
from agent.core.model import Endorsements, Evidence, Tee
from agent.deadline import Deadline
from agent.tas_client import API_KEY_HEADER
from agent.transport.stdlib import Answer, Peer, StdlibTransport
from agent.unseal import WrappingKey
from bench.figure import Figure, paired
from sim.export import export
from sim.psp import default_measurement
from sim.qe import default_register
from tas import tls
from tests.support.simulator import machine
from tests.support.tas import RunningTas, running_tas, snp_policy, tdx_policy

BAR = 0.5
CLIENTS = 4
SECRETS = 100
"""Of each client, in each round."""
BARE = 200
PEER = "its cryptography, bare"
_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
_SIGNATURES: dict[Tee, tuple[ec.EllipticCurve, HashAlgorithm, int]] = {
    Tee.SNP: (ec.SECP384R1(), SHA384(), 1),
    Tee.TDX: (ec.SECP256R1(), SHA256(), 2),
}


def released() -> list[Figure]:
    """the attestation service: secrets per second of its processor time"""
    return [figure for tee in Tee for figure in _figures(tee)]


def _figures(tee: Tee) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as name:
        folder = Path(name)
        guest = Guest(tee, folder)
        root = guest.endorsements / "root.pem"
        words = ("--rate-limit", "0")
        with running_tas(
            folder / "tas", trust_roots=[root], endorsements=guest.endorsements, arguments=words
        ) as service:
            service.create_secret("disk")
            service.put_policy(guest.policy())
            for kind, connections in ((Client, 2), (KeptClient, 1)):
                yield _figure(tee, kind(service, guest), service, connections)


def _figure(tee: Tee, client: Client, service: RunningTas, connections: int) -> Figure:
    said = client.once()
    if client.key.unseal(said.wrapped).reveal() != service.secret("disk"):
        raise RuntimeError("the service gave out another secret")
    bare = Bare(tee, client.key, service, said, connections)
    ours, peer, ratio = paired(lambda: _rate(client, service), bare.rate)
    name = f"TAS get_secret, {'SNP' if tee is Tee.SNP else 'TDX'}, {connections} TLS / bare"
    detail = f"{ours:.0f} against {peer:.0f} per second of processor time, RSA-3072"
    return Figure(name, ratio, "x", BAR, True, PEER, detail)


def _rate(client: Client, service: RunningTas) -> float:
    """Secrets per second of the service's processor time, from several clients at once."""
    begun = _spent(service)
    with ThreadPoolExecutor(CLIENTS) as pool:
        for done in [pool.submit(client.many, SECRETS) for _ in range(CLIENTS)]:
            done.result()
    return CLIENTS * SECRETS / (_spent(service) - begun)


def _spent(service: RunningTas) -> float:
    """Seconds of processor time of all threads of its process, those that ended too."""
    if service.process is None:
        raise RuntimeError("the service is not there")
    return time.clock_gettime((~service.process.pid << 3) | 2)  # Linux: a process's clock, of user and system time


class Guest:
    """A simulated machine in this process, and what there is for who judges it."""

    def __init__(self, tee: Tee, folder: Path) -> None:
        self.tee = tee
        self.endorsements = folder / "endorsements"
        self._machine = machine("snp" if tee is Tee.SNP else "tdx", folder / "sim")
        self._one = threading.Lock()
        export(self._machine, self.endorsements)

    def policy(self) -> dict[str, object]:
        if self.tee is Tee.SNP:
            return snp_policy("web", "disk", default_measurement().hex())
        return tdx_policy("web", "disk", {name: default_register(name).hex() for name in _REGISTERS})

    def evidence(self, report_data: bytes) -> Evidence:
        with self._one:
            return Evidence(self.tee, self._machine.report(report_data, 0).outblob)


@dataclass(frozen=True)
class Said:
    """One exchange: the bodies of both answers and of the second request, and the secret as it came."""

    given: bytes
    asked: bytes
    released: bytes
    wrapped: Wrapped


class Client:
    """The agent's own protocol and transport; one wrapping key for all, since making keys is not what is measured."""

    def __init__(self, service: RunningTas, guest: Guest) -> None:
        self.key = WrappingKey()
        self._headers = {API_KEY_HEADER: service.api_key_file.read_text().strip()}
        self._guest = guest
        self._port, self._tls = service.port, service.tls()
        pin = Pin("spki", bytes.fromhex(service.pin.rpartition(":")[2]))
        self._transport = StdlibTransport(Peer(service.url, (pin,), lambda: datetime.now(UTC)))

    def many(self, count: int) -> None:
        for _ in range(count):
            self.once()

    def once(self) -> Said:
        """One secret. Raises what the agent raises when the service refuses."""
        attempt = Attempt("web")
        with self._sender() as send:
            given = send(attempt.nonce_request())
            nonce = attempt.nonce_answer(given)
            evidence = self._guest.evidence(binding.tas(nonce, self.key.public_der).value)
            request = attempt.secret_request(evidence, self.key.public_der, Endorsements())
            released = send(request)
        return Said(given.body, request.body, released.body, attempt.secret_answer(released))

    @contextmanager
    def _sender(self) -> Iterator[Callable[[Request], Answer]]:
        """What sends the requests of one secret."""
        yield lambda request: self._transport.request(
            request.method,
            request.path,
            headers={**request.headers, **self._headers},
            body=request.body,
            max_bytes=1 << 16,
            deadline=Deadline(30, "a request"),
        )


class KeptClient(Client):
    """Asks for nonce and secret on one connection."""

    @contextmanager
    def _sender(self) -> Iterator[Callable[[Request], Answer]]:
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=self._tls)

        def send(request: Request) -> Answer:
            connection.request(request.method, request.path, request.body, {**request.headers, **self._headers})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

        connection.connect()
        connection.auto_open = 0
        with closing(connection):
            yield send


class Bare:
    """The same cryptography without anything around it."""

    def __init__(self, tee: Tee, key: WrappingKey, service: RunningTas, said: Said, connections: int) -> None:
        curve, digest, self._signatures = _SIGNATURES[tee]
        signer, self._ecdsa = ec.generate_private_key(curve), ec.ECDSA(digest)
        self._message = bytes(0x2A0)
        self._signature = signer.sign(self._message, self._ecdsa)
        self._public = signer.public_key()
        self._sent, exchanges = key.public_der, [(b"-", said.given), (said.asked, said.released)]
        self._conversations = [exchanges] if connections == 1 else [[exchange] for exchange in exchanges]
        loaded = load_der_public_key(key.public_der)
        if not isinstance(loaded, RSAPublicKey):
            raise TypeError("the wrapping key is no RSA key")
        self._key, self._secret = loaded, service.secret("disk")
        self._server = tls.server_context(service.certificate, service.state / "tls-key.pem")
        self._client = service.tls()

    def rate(self) -> float:
        """Secrets per second of this thread's processor time."""
        spent = 0.0
        for _ in range(BARE):
            begun = time.thread_time()
            for _ in range(self._signatures):
                self._public.verify(self._signature, self._message, self._ecdsa)
            self._wrap()
            spent += time.thread_time() - begun
            spent += sum(map(self._conversation, self._conversations))
        return BARE / spent

    def _wrap(self) -> None:
        hashlib.sha512(bytes(64) + self._sent).digest()
        aes = AESGCM.generate_key(256)
        AESGCM(aes).encrypt(os.urandom(12), self._secret, None)
        self._key.encrypt(aes, OAEP(MGF1(SHA256()), SHA256(), None))

    def _conversation(self, exchanges: Sequence[tuple[bytes, bytes]]) -> float:
        """Seconds of the server's half of one TLS connection: handshake, requests read, answers written."""
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self._server.wrap_bio(inward, outward, server_side=True)
        client = self._client.wrap_bio(outward, inward, server_hostname="localhost")
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        begun = time.thread_time()
        with suppress(ssl.SSLWantReadError):
            server.do_handshake()
        spent = time.thread_time() - begun
        client.do_handshake()
        for asked, answered in exchanges:
            client.write(asked)
            begun = time.thread_time()
            server.do_handshake()
            server.read(1 << 16)
            server.write(answered)
            spent += time.thread_time() - begun
            client.read(1 << 16)
        return spent
