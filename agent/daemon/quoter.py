"""The quoter: the only process that asks the kernel for evidence while the system runs (DESIGN.md, I2 and section 5).

One typed method per purpose; the REPORT_DATA is made here, by agent.core.binding, from checked fields. Who may ask
for what: the signer for its keys and its batches of challenges, the fetcher for the attestation service's form, root
for all. The fetcher gets that form only over a wrapping key that the signer announced, so neither of the two, stolen,
can have a secret that is not its own: the fetcher could open no answer, and the signer may not ask the service. Where
they share a user, that user does not get the form at all. One request at a time; the source holds the machine-wide
lock meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from typing import Any

from agent.core import algorithm
from agent.core.binding import tagged
from agent.core.canonical import Reader, b64
from agent.core.challenge import NONCE_MAX, NONCE_MIN
from agent.core.config import Config
from agent.core.errors import Denied, FormatError
from agent.core.kdf import hkdf
from agent.core.model import Evidence, Nonce, Secret
from agent.core.ports import Deadline as AnyDeadline
from agent.core.ports import QuoteSource
from agent.core.statement import USES
from agent.daemon import privileges, sockets
from agent.daemon.names import QUOTER, SOCKETS
from agent.daemon.peers import Caller
from agent.daemon.remote import DERIVED_KEY, MAX_KEY, evidence_to
from agent.daemon.role import Life, begin, live, rehardened
from agent.daemon.rpc import Service
from agent.deadline import Deadline
from agent.probe import derived_key_source, find_source
from agent.quoter import Quoter, Quotes, local_scope

ALL = frozenset({"tas", "signing_key", "challenge_batch", "collect"})
SIGNER = frozenset({"signing_key", "challenge_batch", "announce", "derived_key"})
FETCHER = frozenset({"tas"})
MAX_ANNOUNCED = 64
"""Wrapping keys of the signer's that are remembered, the newest."""
DERIVED_FIELDS = ("policy", "image_id", "family_id", "measurement")
"""What a derived key changes with: whatever boots here with another measurement gets another key."""

Quote = Callable[..., Evidence]
Derive = Callable[[AnyDeadline], Secret]


def permits(signer_uid: int, fetcher_uid: int) -> Callable[[Caller], frozenset[str]]:
    """Which methods a caller may use."""
    table = {fetcher_uid: FETCHER, signer_uid: SIGNER, 0: ALL}
    return lambda caller: table.get(caller.uid, frozenset())


class Desk:
    """Checks the fields of each method and asks for the quotes, one after the other.

    ``derive`` is None where no derived key is configured, and then there is none.
    """

    def __init__(self, quotes: Quotes, seconds: float, derive: Derive | None = None) -> None:
        self._quotes = quotes
        self._seconds = seconds
        self._derive = derive
        self._announced: deque[bytes] = deque(maxlen=MAX_ANNOUNCED)
        self._one = ThreadPoolExecutor(1, "quote")

    def methods(self) -> dict[str, Callable[[dict[str, Any], Caller], Awaitable[dict[str, Any]]]]:
        return {
            "tas": self.tas,
            "signing_key": self.signing_key,
            "challenge_batch": self.challenge_batch,
            "collect": self.collect,
            "announce": self.announce,
            "derived_key": self.derived_key,
        }

    async def tas(self, params: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """For the fetcher only over a key that the signer announced: the one with the network can open no answer."""
        fields = Reader(params, "tas", frozenset({"nonce", "wrapping_key"}))
        nonce, key = Nonce(fields.text("nonce", 64)), fields.base64("wrapping_key", 1, MAX_KEY)
        if caller.uid and sha256(key).digest() not in self._announced:
            raise Denied("this wrapping key is not the signer's", code="denied.wrapping-key")
        return await self._quote(self._quotes.tas, nonce, key)

    async def announce(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        """The signer's next wrapping key."""
        fields = Reader(params, "announce", frozenset({"wrapping_key"}))
        self._announced.append(sha256(fields.base64("wrapping_key", 1, MAX_KEY)).digest())
        return {}

    async def derived_key(self, params: dict[str, Any], _: Caller) -> dict[str, Any]:
        """The key for sealed data, our own by its context. Nothing about it is the caller's to choose."""
        Reader(params, "derived_key", frozenset())
        if self._derive is None:
            raise Denied('[sealing] root is not "snp-derived"', code="denied.derived-key")
        ask = partial(self._derived, self._derive)
        return {"key": b64(await asyncio.get_running_loop().run_in_executor(self._one, ask))}

    def _derived(self, derive: Derive) -> bytes:
        with derive(Deadline(self._seconds, "derived key")) as key:
            return bytes(hkdf(key.reveal(), b"", tagged("sealing-derived"), DERIVED_KEY))

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
    return run(config, partial(_find, config), supervised=supervised)


def _find(config: Config) -> tuple[QuoteSource, Derive | None]:
    """Where evidence comes from; and derived keys, where they are configured. Raises PlatformError."""
    tee, source = find_source(config.evidence)
    if config.sealing.root != "snp-derived":
        return source, None
    keys = derived_key_source(config.evidence, tee)
    return source, lambda deadline: keys.derived_key(DERIVED_FIELDS, deadline=deadline)


def run(config: Config, find: Callable[[], tuple[QuoteSource, Derive | None]], *, supervised: bool) -> int:
    """The role's process. Raises what ``find`` raises, ConfigError, Conflict when another quoter serves."""
    life = begin(QUOTER, supervised=supervised)
    signer = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    fetcher = privileges.unprivileged(config.daemon.fetcher_user, "fetcher_user")
    source, derive = find()
    quotes = Quoter(source, local_scope(config.daemon.audience))
    listener = sockets.listen(config.daemon.runtime_dir, SOCKETS[QUOTER])
    privileges.drop_capabilities()
    rehardened()
    desk = Desk(quotes, config.evidence.quote_seconds, derive)
    service = Service(desk.methods(), permits(signer.uid, fetcher.uid))

    async def main(life: Life) -> None:
        await service.start(listener.sock)
        life.notifier.ready("asks the kernel for evidence")
        await life.stop.wait()
        # A quote under way ends first: on TDX a killed request leaves the interface busy.
        await service.stop()

    return live(life, main)
