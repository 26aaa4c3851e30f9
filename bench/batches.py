"""Batches of a thousand in one request over the socket, against openssl's bare signatures: bundles, and raw ones."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import socket
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from agent.client import Client, Key
from agent.deadline import Deadline
from bench import running
from bench.figure import Figure, paired
from sim import demo_chain
from sim.demo_world import BIN, StepFailed, World

COUNT = 1000
SECONDS = 2.0
ROUNDS = 5
TYPE = "application/vnd.tee-agent.batch+json"
PEER = "openssl speed ed25519"


def signatures() -> list[Figure]:
    """a thousand compact bundles over digests, a thousand raw signatures over payloads, by request"""
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as folder, ExitStack() as stack:
        world = World("snp", Path(folder), stack)
        running.begin(world)
        world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
        demo_chain.sign(world)
        Client(world.socket).create_key({"name": "raw", "use": "raw"}, Deadline(60, "key"))
        digests = [_digest(secrets.token_bytes(32)) for _ in range(COUNT)]
        payloads = [{"data": base64.b64encode(secrets.token_bytes(64)).decode()} for _ in range(COUNT)]
        return [
            _figure(world, "batch of 1,000 bundles", "/v1/sign?context=bench", digests),
            _figure(world, "batch of 1,000 raw signatures", Key("raw").path("/sign"), payloads),
        ]


def _digest(payload: bytes) -> dict[str, Any]:
    return {"digest": {"alg": "sha-512", "digest": hashlib.sha512(payload).hexdigest(), "size": len(payload)}}


def _figure(world: World, name: str, path: str, items: list[dict[str, Any]]) -> Figure:
    body = json.dumps({"payloads": items}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: {TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(world.socket))
        rate = partial(_rate, link, head.encode() + body)
        rate()
        ours, peer, ratio = paired(rate, running.openssl_rate, ROUNDS)
    return Figure(name, ratio, "x", 0.8, True, PEER, f"{ours:.0f}/s against {peer:.0f}/s")


def _rate(link: socket.socket, request: bytes) -> float:
    """Signatures per second; the last answer must hold as many as were asked for."""
    answer, count, begun = b"", 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < SECONDS:
        link.sendall(request)
        answer = _answer(link)
        count += COUNT
    if len(json.loads(answer)["signatures"]) != COUNT:
        raise StepFailed("a batch with fewer signatures than payloads")
    return count / spent


def _answer(link: socket.socket) -> bytes:
    data = bytearray(link.recv(1 << 16))
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += link.recv(1 << 16)
    length = re.search(rb"Content-Length: (\d+)", data)
    if not data.startswith(b"HTTP/1.1 200") or length is None:
        raise StepFailed(f"no signatures: {bytes(data[:200])!r}")
    whole = end + 4 + int(length[1])
    while len(data) < whole:
        data += link.recv(1 << 20)
    return bytes(data[end + 4 :])
