"""What ``tee-agent setup`` does between the question and the files: look, be told whom to believe, try, write.

Nobody is believed on first sight: a pin was given, or somebody at a terminal compared it. Everything is tried with the
transport and the pins that early boot will use, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent import session, settings
from agent.admin import files, measured, plan, server
from agent.admin.plan import Change
from agent.admin.server import Shown
from agent.core.config import MAX_BYTES, Config, Pin, TasConfig
from agent.core.errors import ConfigError, Conflict, TlsError, UsageError
from agent.core.ports import Deadline
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.remote import RemoteQuoter
from agent.probe import endorsements_of
from agent.tas_client import TasClient
from agent.transport.stdlib import Peer, StdlibTransport
from agent.unseal import WrappingKey

Confirm = Callable[[Shown], bool]
"""Shows the server to whoever sits there; True when its pin is the right one."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service that answered under its pins; ``authorities`` is PEM for ``ca:`` pins."""

    url: str
    pins: tuple[Pin, ...]
    version: str = ""
    shown: Shown | None = None
    authorities: bytes = b""


def meet(url: str, pins: Sequence[Pin], confirm: Confirm, deadline: Deadline) -> Service:
    """Whom to believe at ``url``. Raises TlsError (``transport.tls.pin``) for a server that nobody vouches for.

    Plain http is spoken to this machine only (plan.url), and has no pins.
    """
    if url.startswith("http:"):
        if pins:
            raise UsageError("--pin means nothing over plain http", hint="use https, or leave --pin out")
        return Service(url, ())
    shown = server.look(url, deadline)
    if pins and not any(shown.offers(pin) for pin in pins):
        raise TlsError(
            f"{url}: none of the given pins is this server's: its key is {shown.pin}",
            hint="compare with `tas check` on the service's machine; if they differ, somebody stands in between",
            code="transport.tls.pin",
        )
    if not pins and not confirm(shown):
        raise TlsError(f"{url}: not confirmed, nothing was written", hint="give --pin", code="transport.tls.pin")
    wanted = tuple(pins) or (shown.pin,)
    return Service(url, wanted, shown=shown, authorities=_pem(shown, wanted))


def _pem(shown: Shown, pins: Sequence[Pin]) -> bytes:
    chosen = [authority.der for authority in shown.authorities if authority.pin in pins]
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chosen)


def section(service: Service, folder: Path) -> TasConfig:
    """The configuration's [tas] for files in ``folder``."""
    ca_file = folder / plan.CA_FILE if service.authorities else None
    return TasConfig(service.url, service.pins, folder / plan.API_KEY, ca_file)


def asked(config: Config, service: Service, api_key: str, deadline: Deadline) -> str:
    """The service's version, after a nonce that the API key was good for. Raises as TasClient does."""
    tas = session.required(config)
    peer = Peer(tas.url, tas.pins, session.trusted_time, service.authorities, tas.connect_seconds)
    # Version and nonce need no evidence: the quoter is never asked.
    quotes = RemoteQuoter(socket_path(config.daemon.runtime_dir, QUOTER))
    client = TasClient(tas, StdlibTransport(peer), quotes, endorsements_of, api_key=api_key, new_key=WrappingKey)
    version = client.version(deadline)
    client.nonce(deadline)
    return version


def existing(path: Path) -> Config | None:
    """The configuration that is there; None without one, and for one that is not valid (it will be replaced)."""
    try:
        return settings.load(path)
    except ConfigError:
        return None


def changes(config: Config, service: Service, api_key: str) -> tuple[Change, ...]:
    """The files to write, the configuration last: it names the others. Raises ConfigError."""
    path, tas = Path(config.source), session.required(config)
    wanted = [(tas.api_key_file, plan.API_KEY_MODE, f"{api_key}\n".encode())]
    if tas.ca_file is not None:
        wanted.append((tas.ca_file, plan.CA_MODE, service.authorities))
    wanted.append((path, plan.CONFIG_MODE, plan.text(config).encode()))
    return tuple(Change(file, mode, new, _there(file)) for file, mode, new in wanted)


def _there(path: Path) -> bytes | None:
    return settings.read_bounded(path, MAX_BYTES) if path.exists() else None


def require_new(found: Sequence[Change], *, force: bool) -> None:
    """Raises Conflict where a file that is there would be replaced by another."""
    replaced = [str(change.path) for change in found if change.needed and not change.is_new]
    if replaced and not force:
        raise Conflict(
            f"{', '.join(replaced)}: there already, and different",
            hint="read the difference; --force replaces it",
            code="conflict.exists",
        )


def write(found: Sequence[Change]) -> list[Path]:
    """Write what differs, and set the modes of all. Returns what was written. Raises UsageError, PermissionMissing."""
    needed = [change for change in found if change.needed or change.path.stat().st_mode & 0o777 != change.mode]
    for change in needed:
        files.ensure_folder(change.path.parent)
        files.replace(change.path, change.new, change.mode)
    return [change.path for change in needed]


def binding(config: Config) -> tuple[list[str], str]:
    """The commands that bind the volumes; and why they have to say --unmeasured-boot, "" where they need not."""
    commands = [f"tee-agent disk bind {one.name}" for one in config.volumes]
    boot = measured.looked(config).measured
    if boot.state == "yes":
        return commands, ""
    why = (
        f"disk bind needs --unmeasured-boot, for: initramfs measured: {boot.state}: {boot.reason}. To do without, boot "
        "measured and say in [measured] what is booted (docs/prediction.md)"
    )
    return [f"{command} --unmeasured-boot" for command in commands], why
