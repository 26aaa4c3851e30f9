"""Signatures over the socket: C clients ask our signer, ssh-agent and a PKCS#11 token; openssl signs in a loop."""

from __future__ import annotations

import subprocess
import tempfile
from base64 import b64decode
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agent.client import Client
from agent.core import compact
from agent.deadline import Deadline
from bench.figure import Figure, paired
from bench.running import begin, openssl_rate
from sim import demo_chain
from sim.demo_world import BIN, World
from tests.vm.command import HarnessError

SOURCES, BUILT = Path("bench"), Path("build/bench")
TOKEN_MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PAYLOAD = b"x" * 256
SECONDS, ROUNDS = 1.0, 5
CONNECTIONS = (1, 8, 64)
_SIGN_REQUEST = 13
"""Of the ssh-agent protocol."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the C client found: answers per second, and microseconds from write to answer."""

    rate: float
    median: float
    p99: float


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, asked for over and over at one socket."""

    kind: str
    socket: Path
    request: Path
    wait: str = "looks"
    """Or sleeps (bench/load.c)."""

    def load(self, connections: int = 1) -> Load:
        """Raises HarnessError for an answer that is not a signature."""
        words = (BUILT / "load", self.kind, self.socket, self.request, str(connections), str(SECONDS), self.wait)
        count, seconds, median, p99 = _said(*words).split()
        return Load(int(count) / float(seconds), float(median), float(p99))

    def rate(self) -> float:
        return self.load().rate


def over_the_socket() -> list[Figure]:
    """one connection against openssl, ssh-agent and softhsm2; latency at 1, 8 and 64 connections"""
    _compiled()
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as folder, ExitStack() as stack:
        world = World("snp", Path(folder), stack)
        begin(world)
        world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
        demo_chain.sign(world)
        Client(world.socket).create_key({"name": "raw", "use": "raw"}, Deadline(60, "key"))
        raw = _http(world, "raw", "/v1/keys/raw/sign")
        short = _http(world, "compact", "/v1/sign", f"Accept: {compact.MEDIA_TYPE}\r\n")
        whole = _http(world, "bundle", "/v1/sign")
        peers = (_ssh_agent(world), partial(_token_rate, world))
        return [*_against_openssl(raw, short, whole), *_against_peers(raw, *peers), *_waits(short)]


def _against_openssl(raw: Asked, short: Asked, whole: Asked) -> list[Figure]:
    figures = []
    for name, asked in (("raw signature", raw), ("compact bundle", short), ("whole bundle", whole)):
        asked.load()
        ours, peer, ratio = paired(asked.rate, openssl_rate, ROUNDS)
        said = f"{ours:.0f}/s against {peer:.0f}/s"
        figures.append(Figure(f"{name} / openssl", ratio, "x", 0.4, True, "openssl speed ed25519", said))
    ours, peer, ratio = paired(replace(short, wait="sleeps").rate, openssl_rate, ROUNDS)
    said = f"{ours:.0f}/s against {peer:.0f}/s, a client that has to be woken for each answer"
    return [*figures, Figure("compact bundle, client asleep / openssl", ratio, "x", None, True, "openssl speed", said)]


def _against_peers(raw: Asked, ssh: Asked, token: partial[float]) -> list[Figure]:
    ours, peer, ratio = paired(raw.rate, ssh.rate, ROUNDS)
    agent = Figure("raw signature / ssh-agent", ratio, "x", 5, True, "ssh-agent", f"{ours:.0f}/s against {peer:.0f}/s")
    ours, peer, ratio = paired(raw.rate, token, ROUNDS)
    detail = f"{ours:.0f}/s against {peer:.0f}/s, in its own process"
    return [agent, Figure("raw signature / softhsm2", ratio, "x", None, True, "softhsm2", detail)]


def _waits(asked: Asked) -> list[Figure]:
    """How long a compact bundle takes, by connections that ask at once."""
    figures = []
    for count in CONNECTIONS:
        found = sorted((asked.load(count) for _ in range(ROUNDS)), key=lambda load: load.p99)[ROUNDS // 2]
        detail = f"p99; median {found.median / 1000:.3f} ms, {found.rate:.0f}/s, compact bundles"
        bar = 1.0 if count == 1 else None
        name = f"signature, {count} connection{'s' if count > 1 else ''}"
        figures.append(Figure(name, found.p99 / 1000, "ms", bar, False, "none", detail))
    return figures


def _compiled() -> None:
    """The C sources, compiled into build/."""
    BUILT.mkdir(parents=True, exist_ok=True)
    for name in ("load", "token"):
        flags = ("-O2", "-Wall", "-Wextra", "-I/usr/include/p11-kit-1")
        _said("gcc", *flags, "-o", BUILT / name, SOURCES / f"{name}.c")


def _http(world: World, name: str, path: str, more: str = "") -> Asked:
    head = f"POST {path} HTTP/1.1\r\nHost: agent\r\n{more}Content-Length: {len(PAYLOAD)}\r\n\r\n"
    request = world.folder / f"{name}.request"
    request.write_bytes(head.encode() + PAYLOAD)
    return Asked("http", world.socket, request)


def _ssh_agent(world: World) -> Asked:
    """A real one with one Ed25519 key, and a request to sign with it."""
    key, sock = world.folder / "id_ed25519", world.folder / "ssh-agent.sock"
    _said("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    world.stack.callback(process.wait)
    world.stack.callback(process.terminate)
    _said("sh", "-c", 'until [ -S "$1" ]; do sleep 0.05; done', "sh", sock)
    _said("env", f"SSH_AUTH_SOCK={sock}", "ssh-add", "-q", key)
    blob = b64decode(key.with_suffix(".pub").read_text().split()[1])
    body = bytes([_SIGN_REQUEST]) + _framed(blob) + _framed(PAYLOAD) + bytes(4)
    request = world.folder / "ssh.request"
    request.write_bytes(_framed(body))
    return Asked("ssh", sock, request)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _token_rate(world: World) -> float:
    """Signatures per second of softhsm2, called in a process without a socket."""
    with tempfile.TemporaryDirectory(dir=world.folder) as folder:
        tokens, config = Path(folder) / "tokens", Path(folder) / "softhsm2.conf"
        tokens.mkdir()
        config.write_text(f"directories.tokendir = {tokens}\n")
        said = _said("env", f"SOFTHSM2_CONF={config}", BUILT / "token", TOKEN_MODULE, str(SECONDS))
    _, count, seconds = said.split()
    return int(count) / float(seconds)


def _said(*argv: str | Path) -> str:
    """What a command said. Raises HarnessError."""
    words = [str(word) for word in argv]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise HarnessError(f"{' '.join(words)}: {said}") from error
