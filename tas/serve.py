"""The server process: lock, TLS, workers, signals, readiness.

SIGTERM and SIGINT stop it, SIGHUP reads trust roots, endorsements, API key and certificate anew; what can't be read
then stays as it was. Live nonces end with the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sdnotify
from aiohttp import web

from agent.core.errors import ConfigError, TeeAgentError, UsageError
from agent.hardening import harden
from tas import policies, tls, trust
from tas import state as states
from tas.heads import HeadKeeper
from tas.headstore import HeadStore
from tas.log import Log
from tas.nonces import Nonces
from tas.service import Service
from tas.state import State
from tas.store import Store
from tas.trust import Material, Sources
from tas.web import Web, Workers

HANDSHAKE_SECONDS = 10.0
KEEPALIVE_SECONDS = 15.0
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Options:
    """``listen`` is (host, port), port 0 for any; ``ready_fd`` gets one line ``URL PIN`` once it serves."""

    state: Path
    listen: tuple[str, int]
    sources: Sources
    names: tuple[str, ...] = ()
    per_minute: int = 200
    read_seconds: float = 15.0
    ready_fd: int | None = None


def main(args: Namespace) -> int:
    """`tas serve`."""
    if args.rate_limit < 0 or not 0 < args.read_seconds <= 600:
        raise UsageError("--rate-limit is 0 or more, --read-seconds between 0 and 600")
    policies.require_trust(args.policy_trust, required=args.require_signed_policies)
    run(
        Options(
            state=args.state,
            listen=_address(args.listen),
            sources=Sources(
                tuple(args.trust_root),
                args.endorsements,
                args.allow_unchecked_revocation,
                tuple(path.absolute() for path in args.policy_trust),
            ),
            names=tuple(args.name),
            per_minute=args.rate_limit,
            read_seconds=args.read_seconds,
            ready_fd=args.ready_fd,
        )
    )
    return 0


def run(options: Options) -> None:
    """Serve until told to stop. Raises ConfigError, Conflict (another server), FormatError."""
    notes = harden()
    os.umask(0o077)
    log = Log(sys.stderr)
    state = states.create(options.state, options.names)
    with state.serving():
        for note in notes:
            log.event("hardening", note=note)
        asyncio.run(Server(options, state, log).serve())


class Server:
    """One run of the service."""

    def __init__(self, options: Options, state: State, log: Log) -> None:
        self._options = options
        self._state = state
        self._log = log
        self._tls = tls.server_context(state.tls_cert, state.tls_key)
        material = trust.load(state, options.sources)
        self._store = Store(state.database)
        self._heads = HeadStore(state.database)
        self._service = Service(self._store, Nonces(), material, log)
        self._stop = asyncio.Event()
        self._manager = sdnotify.SystemdNotifier() if os.environ.get("NOTIFY_SOCKET") else None
        self._url = ""

    async def serve(self) -> None:
        options = self._options
        self._signals()
        try:
            with (
                ThreadPoolExecutor(1, "secrets") as of_secrets,
                ThreadPoolExecutor(1, "heads") as of_heads,
            ):
                await self._listen(
                    Web(
                        self._service,
                        HeadKeeper(self._heads, self._log),
                        Workers(of_secrets, of_heads),
                        self._log,
                        per_minute=options.per_minute,
                        read_seconds=options.read_seconds,
                    )
                )
        finally:
            self._store.close()
            self._heads.close()

    async def _listen(self, app: Web) -> None:
        runner = web.AppRunner(
            app.application(),
            access_log=None,
            logger=_silent(),
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=2.0,
            shutdown_timeout=STOP_SECONDS,
        )
        await runner.setup()
        try:
            listener = await self._bind(app, runner)
            self._announce(listener)
            await self._stop.wait()
            self._tell("STOPPING=1")
            listener.close()
        finally:
            await runner.cleanup()

    async def _bind(self, app: Web, runner: web.AppRunner) -> asyncio.Server:
        server = runner.server
        if server is None:
            raise ConfigError("the HTTP server did not start")
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_error)
        host, port = self._options.listen
        try:
            return await loop.create_server(
                lambda: app.connections.guard(server()),
                host,
                port,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=STOP_SECONDS,
                backlog=256,
            )
        except OSError as exc:
            raise ConfigError(f"can't listen on {host} port {port}: {exc.strerror}", hint="see --listen") from exc

    def _announce(self, listener: asyncio.Server) -> None:
        host, port = listener.sockets[0].getsockname()[:2]
        self._url = f"https://{f'[{host}]' if ':' in host else host}:{port}"
        pin = tls.spki_pin(states.read_file(self._state.tls_cert))
        self._report_material("start", pin)
        if self._options.ready_fd is not None:
            try:
                with os.fdopen(self._options.ready_fd, "w") as ready:
                    ready.write(f"{self._url} {pin}\n")
            except OSError as exc:
                raise UsageError(f"--ready-fd {self._options.ready_fd}: {exc.strerror}") from exc
        self._tell(f"READY=1\nSTATUS=serving on {self._url}")

    def _tell(self, text: str) -> None:
        if self._manager:
            self._manager.notify(text)

    def _report_material(self, event: str, pin: str) -> None:
        material = self._service.material
        facts: dict[str, Any] = {
            "pid": os.getpid(),
            "url": self._url,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "endorsements": str(self._options.sources.endorsements or ""),
            "crls": material.shelf.crl_count(),
            "unchecked_revocation": material.unchecked_revocation,
            "policy_trust": [str(path) for path in self._options.sources.policy_trust],
            "policy_keys": [{"name": key.name, "spki_sha256": key.sha256} for key in material.policy_keys],
            "roots": [
                {"name": anchor.name, "spki_sha256": anchor.spki_sha256.hex(), "genuine": anchor.genuine}
                for anchor in material.anchors
            ],
        }
        self._store.set_serving(facts)
        self._log.event(event, url=self._url, pin=pin, endorsements=_count(material))
        for anchor in material.anchors:
            if not anchor.genuine:
                self._log.event("added-root", name=anchor.name, spki_sha256=anchor.spki_sha256.hex())

    def _signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        try:
            material = trust.load(self._state, self._options.sources)
            # Tried on a context of its own first: a failure must not leave the live one with half a pair.
            tls.server_context(self._state.tls_cert, self._state.tls_key)
            pin = tls.spki_pin(states.read_file(self._state.tls_cert))
            self._tls.load_cert_chain(self._state.tls_cert, self._state.tls_key)
        except (TeeAgentError, OSError) as exc:
            self._log.event("reload-failed", reason=str(exc))
            return
        self._service.material = material
        try:
            self._report_material("reload", pin)
        except TeeAgentError as exc:
            # The database is busy: what `tas check` shows of the server is old, what the server does is not.
            self._log.event("error", type=type(exc).__name__, where="reload")

    def _loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Failed handshakes and lost connections are everyday; their texts may quote a peer.
        exc = context.get("exception")
        if not isinstance(exc, ssl.SSLError | OSError):
            self._log.event("error", type=type(exc).__name__, where="event loop")


def _count(material: Material) -> str:
    held = material.shelf
    families = len({row.fmspc for row in held.statements.values() if row.fmspc})
    return f"{held.certificate_count()} certificates, {held.crl_count()} CRLs, TDX collateral for {families} FMSPC"


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"--listen {text}: HOST:PORT is meant", hint="for example 127.0.0.1:8443 or [::]:8443")
    return host.strip("[]"), int(port)


def _silent() -> logging.Logger:
    """aiohttp logs requests it can't parse, headers included: those hold the API key."""
    logger = logging.getLogger("tas.http")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
