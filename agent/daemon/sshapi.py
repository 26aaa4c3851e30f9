"""What ssh clients get (docs/ssh.md): a list of the keys for ssh that the access policy shows them, and signatures.

Each request is a wish that the policy decides, as over HTTP. A refusal looks like any other failure to the client; the
audit log has it. Only file signatures and logins are signed (agent.core.sshsig), a login only for the server that the
connection is bound to, and nothing for whoever comes through a forwarded agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from agent.core import sshagent
from agent.core.access import Decision, Wish
from agent.core.errors import FormatError, TeeAgentError
from agent.core.sshagent import FAILURE, Bind, BrokenBind
from agent.core.sshsig import USE, FileSignature, Login, purpose
from agent.core.sshwire import PublicKey
from agent.daemon.admission import Guest
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.named import NamedKey, NamedKeys
from agent.daemon.sshbind import is_signed

FORM = "form"
"""Named as the deciding rule where not the policy refuses, but what was to be signed."""
_encoded = lru_cache(maxsize=1024)(PublicKey.of)
"""For lists, and for looking a key up: each looks at all of them."""


@dataclass(frozen=True, slots=True)
class SshApi:
    """What all connections share."""

    keys: NamedKeys
    guard: Guard
    reports: Reports

    def seen(self, guest: Guest) -> list[NamedKey]:
        """The keys for ssh that the guest may list: newest generations first, then those that are being replaced."""
        found = [key for key in self.keys.all() if key.use == USE and self._shows(guest, key)]
        return sorted(found, key=lambda key: (not key.newest, key.namespace, key.name, -key.generation))

    def _shows(self, guest: Guest, key: NamedKey) -> bool:
        return self.guard.decide(guest.peer.caller, Wish("keys.list", key=full_name(key))).allowed

    def find(self, blob: bytes) -> tuple[NamedKey, PublicKey]:
        """The key for ssh with this encoding. Raises FormatError when there is none."""
        for key in self.keys.all():
            if key.use == USE and (public := _encoded(key.attachments.spki)).blob == blob:
                return key, public
        raise FormatError("there is no such key", record="ssh-agent")


def full_name(key: NamedKey) -> str:
    """As rules call it."""
    return f"{key.namespace}/{key.name}"


def comment(key: NamedKey) -> str:
    """What ssh-add shows: which key, which generation, and its id as everywhere else."""
    return f"{full_name(key)}#{key.generation} {key.attachments.key_sha256.hex()}"


def public_line(key: NamedKey) -> str:
    """The public key as ssh's files have it."""
    return _encoded(key.attachments.spki).line(comment(key))


class Session:
    """One connection: its requests in order, and what it was bound to."""

    def __init__(self, api: SshApi, guest: Guest) -> None:
        self._api, self._guest = api, guest
        self._bound: Bind | None = None
        self._remote = False
        self.over = False
        """Nothing more is answered here: the guest is not permitted anything, or its process has exited."""

    async def answer(self, message: bytes) -> bytes:
        """The whole answer to one message, FAILURE for whatever is wrong. Raises no TeeAgentError."""
        try:
            self.over = not self._guest.permitted or not self._guest.peer.alive()
            request = sshagent.read(message)
            if self.over:
                return self._turned_away(request)
            return await self._answer(request)
        except TeeAgentError:
            return FAILURE

    def _turned_away(self, request: sshagent.Request) -> bytes:
        """Told, where policy is the reason, as over HTTP: what was asked is not looked into."""
        if not self._guest.permitted:
            guard, caller = self._api.guard, self._guest.peer.caller
            sign = isinstance(request, sshagent.Sign)
            wish = Wish("sign", use=USE, format=USE) if sign else Wish("keys.list")
            guard.on_denied(caller, wish, guard.decide(caller, wish))
        return FAILURE

    async def _answer(self, request: sshagent.Request) -> bytes:
        match request:
            case sshagent.List():
                self._api.guard.require(self._guest.peer, Wish("keys.list"))
                return sshagent.identities(self._listed())
            case sshagent.Sign():
                return await self._sign(request)
            case sshagent.Query():
                return sshagent.extensions()
            case Bind() | BrokenBind():
                return self._bind(request)
            case _:
                return FAILURE

    def _listed(self) -> Iterator[tuple[bytes, str]]:
        for key in () if self._remote else self._api.seen(self._guest):
            yield _encoded(key.attachments.spki).blob, comment(key)

    async def _sign(self, request: sshagent.Sign) -> bytes:
        key, public = self._api.find(request.key)
        try:
            what = purpose(request.data, public)
            self._require_bound(what)
        except FormatError as error:
            self._refused(key, error.message)
            raise
        wish = Wish("sign", key=full_name(key), use=USE, format=USE, context=what.context)
        self._api.guard.require(self._guest.peer, wish)
        made = public.wrap((await self._api.keys.current(key)).sign(request.data))
        self._api.reports.signed(self._guest.peer.caller, key.attachments.key_sha256.hex(), use=key.use)
        return sshagent.signature(made)

    def _refused(self, key: NamedKey, why: str) -> None:
        """A client that wants a key to sign something else: worth a line beside the policy's own refusals."""
        guard, caller = self._api.guard, self._guest.peer.caller
        wish = Wish("sign", key=full_name(key), use=USE, format=USE)
        guard.on_denied(caller, wish, Decision(False, FORM, why, guard.namespace(caller)))

    def _require_bound(self, what: FileSignature | Login) -> None:
        """Raises FormatError: not for this connection."""
        if self._remote:
            raise FormatError("nothing is signed for another machine, through a forwarded agent", record="ssh-agent")
        if self._bound and isinstance(what, Login):
            if what.session != self._bound.session:
                raise FormatError("a login to another session than the connection is bound to", record="ssh-agent")
            if what.host_key not in (None, self._bound.host_key):
                raise FormatError("a login to another server than the connection is bound to", record="ssh-agent")

    def _bind(self, request: Bind | BrokenBind) -> bytes:
        """Whatever it says narrows the connection, proven or not; it can't be widened again."""
        if isinstance(request, BrokenBind):
            self._remote = True
            return sshagent.EXTENSION_FAILURE
        first = self._bound is None and not self._remote
        self._remote |= request.forwarding or not first
        self._bound = request
        return sshagent.SUCCESS if first and is_signed(request) else sshagent.EXTENSION_FAILURE
