"""Clients that mean harm: bytes of several shapes from a seed, and processes that hold, drip and flood.

Everything random comes from the given ``random.Random``: the same seed is the same attack.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from agent.daemon.api import ROUTES
from agent.daemon.problem import STATUS
from tests.support.daemon import Daemon

HEAD = b"HTTP/1.1\r\nHost: agent\r\n"
JSON = b"Content-Type: application/json\r\n"
STATUSES = {100, 200, 201, 422, *STATUS.values()} - {500}
"""What docs/api.md knows, and 100."""
_ANSWER = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([^\r\n]*)\r\n((?:[!-9;-~]+: [^\r\n]*\r\n)*)\r\n")


def valid(random: Random) -> bytes:
    """A request that is right, of one kind or another."""
    said = json.dumps({"nonce": random.randbytes(16).hex()}).encode()
    question = json.dumps({"document": {"text": "x" * random.randrange(50)}, "any_workload": True}).encode()
    body = random.randbytes(random.randrange(200))
    return random.choice(
        [
            b"POST /v1/sign?context=a %sContent-Length: %d\r\n\r\n%s" % (HEAD, len(body), body),
            b"POST /v1/sign %sTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % HEAD,
            b"POST /v1/challenge %s%sContent-Length: %d\r\n\r\n%s" % (HEAD, JSON, len(said), said),
            b"POST /v1/verify %s%sContent-Length: %d\r\n\r\n%s" % (HEAD, JSON, len(question), question),
            b"GET /v1/keys %s\r\n" % HEAD,
            b"GET /metrics %sAccept: text/plain\r\n\r\n" % HEAD,
            b"GET /v1/keys/hostile/attestation %s\r\n" % HEAD,
            b"DELETE /v1/keys/none?namespace=x %s\r\n" % HEAD,
        ]
    )


def noise(random: Random) -> bytes:
    return random.randbytes(random.randrange(1, 3000))


def text_noise(random: Random) -> bytes:
    words = [
        b"GET",
        b"POST",
        b" ",
        b"/",
        b"/v1/sign",
        b"HTTP/1.1",
        b"\r\n",
        b"\n",
        b"\r",
        b":",
        b"Host",
        b"\0",
        b"chunked",
    ]
    return b"".join(random.choice(words) for _ in range(random.randrange(1, 60)))


def mutated(random: Random) -> bytes:
    """A right request with a few bytes changed, put in, taken out or doubled."""
    data = bytearray(valid(random))
    for _ in range(random.randrange(1, 6)):
        place, end = sorted((random.randrange(len(data) + 1), random.randrange(len(data) + 1)))
        change = random.randrange(5)
        if change == 0 and data:
            data[min(place, len(data) - 1)] ^= 1 << random.randrange(8)
        elif change == 1:
            data[place:place] = random.randbytes(random.randrange(1, 8))
        elif change == 2:
            del data[place : min(end, place + 8)]
        elif change == 3:
            data[place:place] = data[place : min(end, place + 64)]
        else:
            data[place:place] = random.choice([b"\r\n", b"\n", b"\r", b"\0", b": ", b"%00", b"\xff", b"-1"])
    return bytes(data)


def cut(random: Random) -> bytes:
    data = valid(random)
    return data[: random.randrange(len(data))]


def huge_head(random: Random) -> bytes:
    size = random.choice([8_000, 8_190, 8_191, 9_000, 70_000, 400_000])
    many = random.choice([63, 64, 65, 2_000])
    return random.choice(
        [
            b"GET /" + b"a" * size + b" " + HEAD + b"\r\n",
            b"GET /v1/sign?context=" + b"a" * size + b" " + HEAD + b"\r\n",
            b"A" * size + b" /v1/sign " + HEAD + b"\r\n",
            b"GET /v1/keys " + HEAD + b"X: " + b"a" * size + b"\r\n\r\n",
            b"GET /v1/keys " + HEAD + b"a" * size + b": x\r\n\r\n",
            b"GET /v1/keys " + HEAD + b"X: y\r\n" * many + b"\r\n",
            b"GET /v1/keys " + HEAD + b"X: " + b"\t " * (size // 2) + b"\r\n\r\n",
            b"POST /v1/sign " + HEAD + b"Cookie: " + b"a=b; " * (size // 5) + b"\r\n\r\n",
        ]
    )


def bad_chunks(random: Random) -> bytes:
    size = random.choice(
        [b"-1", b"+5", b"0x5", b"5 ", b" 5", b"5;" + b"x" * 9000, b"f" * 17, b"ffffffffffffffff", b"", b"g"]
    )
    body = random.choice(
        [
            size + b"\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\nhello\n0\n\n",
            b"5\r\nhell\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: " + b"y" * random.choice([10, 10_000]) + b"\r\n\r\n",
            b"5\r\nhello\r\n" + b"1\r\nx\r\n" * random.randrange(200),
            b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
            b"5\r\nhello\r\n00000000000000000000\r\n\r\n",
        ]
    )
    return b"POST /v1/sign " + HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body


SMUGGLED = b"GET /v1/status HTTP/1.1\r\nHost: agent\r\n\r\n"
AMBIGUOUS = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 0\r\nContent-Length: 5\r\n",
    b"Content-Length: 5, 0\r\n",
    b"Content-Length: +0\r\n",
    b"Content-Length: 0x0\r\n",
    b"Content-Length: -0\r\n",
    b"Content-Length: 0 0\r\n",
    b"Content-Length : 0\r\n",
    b"Content-Length:\r\n",
    b"Content-Length: 99999999999999999999999\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer\x00Encoding: chunked\r\n",
    b"X: y\r\n Content-Length: 0\r\n",
    b"X: y\rContent-Length: 0\r\n",
    b"X: y\x00\r\n",
    b" X: y\r\n",
]
"""Heads whose end of body two readers would see in two places, or that no reader may take."""


def smuggling(random: Random) -> bytes:
    """One of them, with a request behind it that must never be answered as one."""
    return b"POST /v1/sign " + HEAD + random.choice(AMBIGUOUS) + b"\r\n0\r\n\r\n" + SMUGGLED


def odd_requests(random: Random) -> bytes:
    path = random.choice(
        [*ROUTES, "/", "//v1/sign", "/v1/../v1/sign", "/v1/keys/%2e%2e", "/v1/keys/%00", "*", "/%", "/\xff"]
    )
    path = path.replace("{name}", random.choice(["hostile", "", "%ff", "a" * 300, "..", "a/b", "%2f"]))
    method = random.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "M" * 40])
    version = random.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.1 ", "http/1.1", "HTTP/11.1", ""])
    query = random.choice(
        ["", "?", "?a", "?context=%zz", "?context=a&context=b", "?context=%ED%A0%80", "?=&&=", "?" + "a=b&" * 50]
    )
    extra = random.choice(
        ["", "Expect: 100-continue\r\n", "Expect: x\r\n", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Accept: \r\n"]
    )
    target = random.choice(["", "", "http://agent", "http://other:99"]) + path + query
    return f"{method} {target} {version}\r\nHost: agent\r\n{extra}\r\n".encode("latin-1")


def value(random: Random, depth: int = 3) -> Any:
    """Some JSON value."""
    kind = random.randrange(9 if depth else 7)
    plain = [
        None,
        True,
        random.randrange(-(2**70), 2**70),
        random.random(),
        "x" * random.randrange(70),
        "\ud800",
        "00" * 16,
    ]
    if kind < len(plain):
        return plain[kind]
    if kind == len(plain):
        return [value(random, depth - 1) for _ in range(random.randrange(4))]
    names = ["nonce", "payload", "claims", "digest", "alg", "data", "document", "", "\0"]
    return {random.choice(names): value(random, depth - 1) for _ in range(random.randrange(4))}


FIELDS = (
    "nonce",
    "payload",
    "context",
    "audience",
    "claims",
    "name",
    "use",
    "algorithm",
    "lifetime_seconds",
    "namespace",
    "overlap_seconds",
    "document",
    "policy",
    "any_workload",
    "at",
    "payloads",
    "challenges",
    "digest",
    "alg",
    "size",
)
TYPES = (
    "application/json",
    "application/vnd.tee-agent.digest+json",
    "application/vnd.tee-agent.batch+json",
    "text/plain",
    "",
)


def wrong_types(random: Random) -> bytes:
    """JSON with right names and wrong values, or hardly JSON."""
    document = {name: value(random) for name in random.sample(FIELDS, random.randrange(1, 5))}
    body = json.dumps(document if random.random() < 0.8 else value(random)).encode()
    if random.random() < 0.2:
        body = random.choice(
            [b"[" * 20_000, b'{"a":' * 5_000, body[:-1], b"\xef\xbb\xbf" + body, body + body, b"1e999", b"NaN"]
        )
    path = random.choice([path for path, methods in ROUTES.items() if "POST" in methods]).replace("{name}", "hostile")
    head = f"POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Type: {random.choice(TYPES)}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def pipelined(random: Random) -> bytes:
    """A right request with something else behind it."""
    return valid(random) + random.choice([noise, mutated, smuggling, valid])(random)


SHAPES: Sequence[Callable[[Random], bytes]] = (
    noise,
    text_noise,
    mutated,
    cut,
    huge_head,
    bad_chunks,
    smuggling,
    odd_requests,
    wrong_types,
    pipelined,
)


def link(path: Path) -> socket.socket:
    """A connection, however long the queue: what waits in connect() is no error (a timeout would make it one)."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    sock.settimeout(60)
    return sock


def ask(path: Path, data: bytes, seconds: float = 30.0) -> bytes:
    """Everything that is answered to ``data``; the client's side is closed behind it. Raises TimeoutError."""
    with link(path) as sock:
        sock.settimeout(seconds)
        found = bytearray()
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all of it was said: the answer is there
        try:
            while chunk := sock.recv(1 << 16):
                found += chunk
        except ConnectionResetError:
            pass
    return bytes(found)


def statuses(answer: bytes) -> list[int]:
    """Of each answer in a row. Raises ValueError for what is not HTTP, whole, with a length."""
    found, place = [], 0
    while place < len(answer):
        match = _ANSWER.match(answer, place)
        if not match:
            raise ValueError(f"not an answer: {answer[place : place + 200]!r}")
        place = match.end()
        found.append(int(match[1]))
        length = re.search(rb"(?im)^content-length: ([0-9]+)\r$", match[3])
        if found[-1] == 100:
            continue
        if not length:
            raise ValueError(f"an answer without a length: {match[0]!r}")
        place += int(length[1])
    if place > len(answer):
        raise ValueError("the last answer is not whole")
    return found


@dataclass(frozen=True)
class Use:
    """What a process holds: resident bytes and open descriptors."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Use:
        match = re.search(r"^VmRSS:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert match
        return cls(int(match[1]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def settled(daemon: Daemon) -> Use:
    """Of the signer, once it has no connection but the one that asks."""
    end = time.monotonic() + 60
    while daemon.status()["connections"] > 1:
        assert time.monotonic() < end, "connections stay open"
        os.sched_yield()
    return Use.of(daemon.role("signer"))


DRIP = """
import socket, sys, time
path, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
head = b"POST /v1/sign HTTP/1.1\\r\\nHost: agent\\r\\n"
begin = {"head": b"", "body": head + b"Content-Length: 100000\\r\\n\\r\\n",
         "chunk": head + b"Transfer-Encoding: chunked\\r\\n\\r\\n186a0\\r\\n"}[what]
socks = []
for _ in range(count):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(begin)
    sock.setblocking(False)
    socks.append(sock)
print("dripping", flush=True)
byte, ended = 0, 0
while socks and byte < 120:
    for sock in tuple(socks):
        try:
            sock.send(head[byte % len(head):][:1] if what == "head" else b"x")
        except OSError:
            socks.remove(sock)
            ended += 1
    byte += 1
    time.sleep(0.1)
print(ended, flush=True)
"""
"""So many connections that say a byte every tenth of a second, for twelve seconds; prints how many were cut off."""
VICTIM = """
import http.client, json, socket, sys, time
def connection():
    made = http.client.HTTPConnection("agent", timeout=60)
    made.sock = socket.socket(socket.AF_UNIX)
    made.sock.connect(sys.argv[1])
    made.sock.settimeout(60)
    return made
kept, spent, wrong = connection(), [], []
sys.stdin = open(0, "rb", buffering=0)
import select
print("begun", flush=True)
while not select.select([0], [], [], 0.005)[0]:
    for link in (kept, connection()):
        begun = time.monotonic()
        link.request("POST", "/v1/sign", b"mine")
        answer = link.getresponse()
        answer.read()
        spent.append(time.monotonic() - begun)
        if answer.status != 200:
            wrong.append(answer.status)
        if link is not kept:
            link.close()
spent.sort()
print(json.dumps([len(spent), spent[-1], spent[len(spent) * 99 // 100], wrong]), flush=True)
"""


@dataclass
class Victim:
    """Another user who signs all the time, on one kept connection and on new ones; times in seconds."""

    count: int = 0
    slowest: float = 0.0
    p99: float = 0.0
    wrong: tuple[int, ...] = ()


@contextmanager
def victim(daemon: Daemon, user: Sequence[str]) -> Iterator[Victim]:
    """Signs as ``user`` until the end of the block, then says how it was."""
    found = Victim()
    argv = [*user, sys.executable, "-I", "-c", VICTIM, str(daemon.socket)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        try:
            yield found
        finally:
            said, _ = process.communicate(b"x", timeout=120)
    found.count, found.slowest, found.p99, wrong = json.loads(said)
    found.wrong = tuple(wrong)


def attacked(path: Path, seed: int, count: int, threads: int = 8) -> Iterator[tuple[str, bytes, bytes]]:
    """``count`` requests of every shape in turn, and what each was answered."""

    def one(number: int) -> tuple[str, bytes, bytes]:
        shape = SHAPES[number % len(SHAPES)]
        data = shape(Random(f"{seed}/{number}"))
        return f"{shape.__name__} {seed}/{number}", data, ask(path, data)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(one, range(count))
