"""One client process of bench.challenges: asks without a pause on many connections, and verifies all that it gets.

Of each answer: the nonce and the payload are those that were sent, the leaf that they make is under the root by its
proof, the root is that of the attachments' evidence, the signature is the key's. Evidence and certificates are verified
once for each digest of attachments, with the simulator's root added. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import time
from base64 import b64decode
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.client import Client
from agent.core import attachdoc, binding, compact, merkle
from agent.core.bundle import PURPOSE, Attachments, Payload
from agent.core.challenge import Leaf
from agent.core.errors import TransportError
from agent.core.model import TrustAnchor
from agent.deadline import Deadline
from agent.verify import signed
from agent.verify.bundle import verify_bundle
from agent.verify.evidence import genuine_anchors
from agent.verify.workload import Workload
from tests.support.simulator import anchor

BATCH_TYPE = "application/vnd.tee-agent.batch+json"
_CHUNK = 1 << 18
_STEP = 20
_BEFORE = b'{"attachments":"%s",' % (b"0" * 128)


class Wrong(Exception):
    """An answer that is not what it should be."""


@dataclass
class Link:
    """One connection: a request under way, and what of its answer came."""

    sock: socket.socket
    nonces: list[bytes] = field(default_factory=list)
    sent: float = 0.0
    data: bytearray = field(default_factory=bytearray)
    length: int = -1


class Known:
    """Attachments that were verified, and what every bundle under them has in common."""

    def __init__(self, attachments: Attachments, key: Ed25519PublicKey, root: bytes) -> None:
        self.key, self.root = key, root
        self.payload = Payload.of(b"").to_json()
        self._digest = Payload.of(b"").digest
        self._key_sha256, self._statement = attachments.key_sha256, attachments.statement.digest()

    def leaf(self, random: bytes, nonce: bytes, caller: dict[str, Any]) -> bytes:
        """Of a challenge with no text and no claims."""
        made = Leaf(random, nonce, self._digest, "", "", self._key_sha256, self._statement, caller)
        return made.encode()


class Judge:
    """Verifies; keeps what it learnt of attachments."""

    def __init__(self, path: Path, root: TrustAnchor) -> None:
        self._client = Client(path)
        self._anchors = (*genuine_anchors(), root)
        self._known: dict[bytes, Known] = {}

    @property
    def quotes(self) -> int:
        """Pieces of evidence seen."""
        return len(self._known)

    def check(self, document: bytes, nonce: bytes) -> None:
        """Raises Wrong, or what the parts of the verifier raise."""
        said = json.loads(document)
        fresh, digest = said["fresh"], bytes.fromhex(said["attachments"])
        known = self._known.get(digest) or self._learn(digest, document)
        if fresh["nonce"] != nonce.hex() or said["payload"] != known.payload:
            raise Wrong("another nonce or payload than was sent")
        if fresh["root"] != known.root.hex():
            raise Wrong("another root than the evidence's")
        leaf = known.leaf(bytes.fromhex(fresh["random"]), nonce, fresh["caller"])
        path = [bytes.fromhex(sibling) for sibling in fresh["path"]]
        if not merkle.verify_proof(known.root, fresh["tree_size"], fresh["index"], leaf, path):
            raise Wrong("the leaf is not in the tree")
        # Between the digest in front and the signature behind stands what was signed, byte for byte.
        signed = document[len(_BEFORE) : document.rindex(b',"signature"')]
        known.key.verify(
            b64decode(said["signature"]), binding.tagged(PURPOSE, digest, b'{%s,"type":"tee-agent/bundle/v1"}' % signed)
        )

    def _attachments(self, digest: bytes) -> bytes:
        """Asked again while a crowd of connections is being accepted."""
        deadline = Deadline(30, "attachments")
        while True:
            try:
                return self._client.attachments(digest, deadline)
            except TransportError:
                deadline.sleep(0.05)

    def _learn(self, digest: bytes, document: bytes) -> Known:
        """Everything about attachments, by the ordinary verifier over the first bundle that names them."""
        attachments = attachdoc.decode(self._attachments(digest))
        whole = compact.join(compact.decode(document), attachments)
        judge = signed.Judge(datetime.now(UTC), Workload(any_workload=True), self._anchors)
        verify_bundle(whole.encode(), judge, payload=b"")
        key = load_der_public_key(attachments.spki)
        if not isinstance(key, Ed25519PublicKey) or whole.fresh is None:
            raise Wrong("the key is not Ed25519, or the bundle has no proof")
        self._known[digest] = Known(attachments, key, whole.fresh.root)
        return self._known[digest]


class Asker:
    """All connections of this process."""

    def __init__(self, path: Path, judge: Judge, connections: int, batch: int) -> None:
        self._path, self._judge, self._batch = path, judge, batch
        self._selector = selectors.DefaultSelector()
        for _ in range(connections):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            link = Link(sock)
            self._selector.register(sock, selectors.EVENT_READ, link)
            self._send(link)

    def run(self, warm: float, seconds: float) -> dict[str, Any]:
        """Counted from ``warm`` seconds on."""
        begin = time.monotonic() + warm
        waits: list[float] = []
        unchecked: deque[tuple[bytes, bytes]] = deque()
        while time.monotonic() < begin + seconds:
            # What is there is read, and the next asked for, before anything is verified: that is the client's own time.
            for key, _ in self._selector.select(0 if unchecked else 0.1):
                link: Link = key.data
                if documents := self._received(link):
                    at, nonces = time.monotonic(), link.nonces
                    waits += [at - link.sent] * len(documents) if at >= begin else []
                    self._send(link)
                    unchecked.extend(zip(documents, nonces, strict=True))
            for _ in range(min(len(unchecked), _STEP)):
                self._judge.check(*unchecked.popleft())
        for document, nonce in unchecked:
            self._judge.check(document, nonce)
        # With the time that this took: what was not verified does not count.
        spent = time.monotonic() - begin
        return {"answers": len(waits), "seconds": spent, "waits": sorted(waits), "quotes": self._judge.quotes}

    def _send(self, link: Link) -> None:
        link.nonces = [os.urandom(32) for _ in range(self._batch)]
        wishes = [{"nonce": nonce.hex()} for nonce in link.nonces]
        media_type, accept = ("application/json", compact.MEDIA_TYPE) if self._batch == 1 else (BATCH_TYPE, BATCH_TYPE)
        said = json.dumps(wishes[0] if self._batch == 1 else {"challenges": wishes}).encode()
        head = f"Host: a\r\nAccept: {accept}\r\nContent-Type: {media_type}\r\nContent-Length: {len(said)}\r\n\r\n"
        link.data, link.length, link.sent = bytearray(), -1, time.monotonic()
        link.sock.sendall(b"POST /v1/challenge HTTP/1.1\r\n" + head.encode() + said)

    def _received(self, link: Link) -> list[bytes]:
        """The answers, when all have come."""
        chunk = link.sock.recv(_CHUNK)
        if not chunk:
            raise Wrong("the agent hung up")
        link.data += chunk
        if link.length < 0 and (end := link.data.find(b"\r\n\r\n")) >= 0:
            head = bytes(link.data[:end])
            if b" 200 " not in head.split(b"\r\n")[0]:
                raise Wrong(f"refused: {bytes(link.data)[:600]!r}")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            link.length = int(fields[b"content-length"])
            del link.data[: end + 4]
        if link.length < 0 or len(link.data) < link.length:
            return []
        return [bytes(link.data)] if self._batch == 1 else _parts(bytes(link.data))


def _parts(answer: bytes) -> list[bytes]:
    """The bundles of a batch's answer, each as it was written: their canonical form is a part of it."""
    start = answer.index(b'"bundles":[') + len(b'"bundles":[')
    parts = answer[start : answer.rindex(b"]")].split(b',{"attachments":')
    return [parts[0], *(b'{"attachments":' + part for part in parts[1:])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket", type=Path)
    parser.add_argument("root", type=Path, help="the simulator's root.pem")
    for name in ("uid", "connections", "batch"):
        parser.add_argument(name, type=int)
    for name in ("warm", "seconds"):
        parser.add_argument(name, type=float)
    args = parser.parse_args()
    root = anchor(x509.load_pem_x509_certificate(args.root.read_bytes()))
    os.setgroups([])
    os.setresgid(args.uid, args.uid, args.uid)
    os.setresuid(args.uid, args.uid, args.uid)
    asker = Asker(args.socket, Judge(args.socket, root), args.connections, args.batch)
    sys.stdout.write(json.dumps(asker.run(args.warm, args.seconds)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
