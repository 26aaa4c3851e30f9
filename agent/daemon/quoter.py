"""The quoter: the only process that asks the kernel for evidence while the system runs (DESIGN.md, I2 and section 5).

One typed method per purpose; the REPORT_DATA is made here, by agent.core.binding, from checked fields. Who may ask
for what: the signer for its keys and its batches of challenges, the fetcher for the attestation service's form,
root for all. Where signer and fetcher share a user, that user does not get the service's form: a stolen signer must
not be able to ask for the disk's secret. One quote at a time; the source holds the machine-wide lock meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from agent.core import algorithm
from agent.core.canonical import Reader
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.config import Config
from agent.core.errors import FormatError
from agent.core.model import Evidence, Nonce
from agent.core.ports import QuoteSource
from agent.core.statement import USES
from agent.daemon import privileges, sockets
from agent.daemon.names import QUOTER, SOCKETS
from agent.daemon.peers import Caller
from agent.daemon.remote import MAX_KEY, evidence_to
from agent.daemon.role import Life, begin, live, rehardened
from agent.daemon.rpc import Service
from agent.deadline import Deadline
from agent.probe import find_source
from agent.quoter import Quoter, Quotes, local_scope

ALL = frozenset({"tas", "signing_key", "challenge_batch", "collect"})
SIGNER = frozenset({"signing_key", "challenge_batch"})
FETCHER = frozenset({"tas"})

Quote = Callable[..., Evidence]


def permits(signer_uid: int, fetcher_uid: int) -> Callable[[Caller], frozenset[str]]:
    """Which methods a caller may use."""
    table = {fetcher_uid: FETCHER, signer_uid: SIGNER, 0: ALL}
    return lambda caller: table.get(caller.uid, frozenset())


class Desk:
    """Checks the fields of each method and asks for the quotes, one after the other."""

    def __init__(self, quotes: Quotes, seconds: float) -> None:
        self._quotes = quotes
        self._seconds = seconds
        self._one = ThreadPoolExecutor(1, "quote")

    def methods(self) -> dict[str, Callable[[dict[str, Any], Caller], Awaitable[dict[str, Any]]]]:
        return {
            "tas": self.tas,
            "signing_key": self.signing_key,
            "challenge_batch": self.challenge_batch,
            "collect": self.collect,
        }

    async def tas(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        fields = Reader(params, "tas", frozenset({"nonce", "wrapping_key"}))
        return await self._quote(
            self._quotes.tas, Nonce(fields.text("nonce", 64)), fields.base64("wrapping_key", 1, MAX_KEY)
        )

    async def signing_key(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        fields = Reader(params, "signing_key", frozenset({"algorithm", "use", "spki", "statement_digest"}))
        kind, use = algorithm.find(fields.text("algorithm", 32)), fields.text("use", 16)
        if use not in USES:
            raise FormatError("signing_key: no such use", record="signing_key")
        spki, digest = fields.base64("spki", *algorithm.SPKI_SIZES), fields.hexadecimal("statement_digest", 64)
        kind.require_spki(spki)
        return await self._quote(self._quotes.signing_key, kind.name, use, spki, digest)

    async def challenge_batch(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        fields = Reader(params, "challenge_batch", frozenset({"tree_size", "root"}))
        size, root = fields.integer("tree_size", 1, 1 << 32), fields.hexadecimal("root", 64)
        return await self._quote(self._quotes.challenge_batch, size, root)

    async def collect(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        fields = Reader(params, "collect", frozenset({"nonce"}))
        return await self._quote(self._quotes.collect, fields.hexadecimal("nonce", NONCE_MIN, NONCE_MAX))

    async def _quote(self, method: Quote, *fields: object) -> dict[str, Any]:
        ask = partial(self._ask, method, fields)
        return evidence_to(await asyncio.get_running_loop().run_in_executor(self._one, ask))

    def _ask(self, method: Quote, fields: tuple[object, ...]) -> Evidence:
        # Counted from the moment it is our turn: the one before us had the same time.
        return method(*fields, deadline=Deadline(self._seconds, "evidence"))


def start(config: Config, *, supervised: bool) -> int:
    """The role's process on this machine's TEE. Raises PlatformError without one; the rest as run."""
    return run(config, lambda: find_source(config.evidence)[1], supervised=supervised)


def run(config: Config, find: Callable[[], QuoteSource], *, supervised: bool) -> int:
    """The role's process. Raises what ``find`` raises, ConfigError, Conflict when another quoter serves."""
    life = begin(QUOTER, supervised=supervised)
    signer = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    fetcher = privileges.unprivileged(config.daemon.fetcher_user, "fetcher_user")
    quotes = Quoter(find(), local_scope(config.daemon.audience))
    listener = sockets.listen(config.daemon.runtime_dir, SOCKETS[QUOTER])
    privileges.drop_capabilities()
    rehardened()
    service = Service(Desk(quotes, config.evidence.quote_seconds).methods(), permits(signer.uid, fetcher.uid))

    async def main(life: Life) -> None:
        await service.start(listener.sock)
        life.notifier.ready("asks the kernel for evidence")
        await life.stop.wait()
        # A quote under way ends first: on TDX a killed request leaves the interface busy.
        await service.stop()

    return live(life, main)
