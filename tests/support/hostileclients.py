"""Clients that mean harm, and their victims: they ask, hold, drip and flood, and what that does to the signer is measured."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.support.daemon import Daemon
from tests.support.hostile import SHAPES
from tests.support.waiting import awaited

_ANSWER = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ([^\r\n]*)\r\n((?:[!-9;-~]+: [^\r\n]*\r\n)*)\r\n")


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
    awaited(lambda: daemon.status()["connections"], lambda count: count <= 1)
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
while socks and byte < (1200 if what == "head" else 120):
    for sock in tuple(socks):
        try:
            sock.send((what == "head" and head[byte : byte + 1]) or b"x")
        except OSError:
            socks.remove(sock)
            ended += 1
    byte += 1
    time.sleep(0.1)
print(ended, flush=True)
"""
"""So many connections that say a byte every tenth of a second, for twelve seconds, or of a head that never ends until
they are cut off, with patience; prints how many were."""
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
