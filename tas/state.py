"""The state directory: what lies in it, with which modes, and who may use it.

::

    DIR/             0700, owned by the user who runs tas
      tas.sqlite     0600  policies, secrets, live nonces (with -wal and -shm beside it)
      tls-key.pem    0600  private key of the TLS server
      tls-cert.pem   0600  its certificate, or a chain, leaf first
      api-key        0600  what clients send as X-API-KEY
      lock           0600  held by the one `tas serve` of this directory

A directory that others can enter is refused: the secrets in it would be theirs too.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.core.errors import ConfigError, Conflict
from tas import tls

DEFAULT_STATE = Path("/var/lib/tas")
MAX_FILE = 1 << 16
"""Bytes of any file that an admin hands in."""


@dataclass(frozen=True, slots=True)
class State:
    """Paths of one state directory."""

    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "tas.sqlite"

    @property
    def tls_key(self) -> Path:
        return self.folder / "tls-key.pem"

    @property
    def tls_cert(self) -> Path:
        return self.folder / "tls-cert.pem"

    @property
    def api_key(self) -> Path:
        return self.folder / "api-key"

    def read_api_key(self) -> bytes:
        """The key, without surrounding blanks. Raises ConfigError if it is shorter than 32 characters."""
        key = read_file(self.api_key).strip()
        if len(key) < 32:
            raise ConfigError(
                f"{self.api_key}: an API key has 32 characters or more", hint="delete the file; tas init makes another"
            )
        return key

    @contextmanager
    def serving(self, tries: int = 10) -> Iterator[None]:
        """Hold the lock of the one server. Raises Conflict while another runs.

        Tries more than once, 0.1 s apart: a `tas check` may be holding the lock for an instant.
        """
        handle = _open(self.folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            while not _locked(handle):
                tries -= 1
                if tries <= 0:
                    raise Conflict(f"another tas serve uses {self.folder}", hint="stop it, or give another --state")
                time.sleep(0.1)
            yield
        finally:
            os.close(handle)

    def is_served(self) -> bool:
        """Whether a server runs on this directory now."""
        try:
            with self.serving(tries=1):
                return False
        except Conflict:
            return True


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create(folder: Path, names: tuple[str, ...] = ()) -> State:
    """Make what is missing in ``folder`` and leave what is there: running it again changes nothing.

    ``names`` are DNS names or addresses for a new certificate. A key that is there is kept, for agents know its pin.
    Raises ConfigError for an unsafe directory, Conflict if the certificate that is there lacks a name.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{folder}: {exc.strerror}", hint="give another --state") from exc
    state = open_existing(folder, complete=False)
    if not all(path.exists() for path in (state.tls_key, state.tls_cert, state.api_key)):
        with state.serving():
            _fill(state, names)
    if missing := tls.names_missing(read_file(state.tls_cert), names):
        raise Conflict(
            f"{state.tls_cert} does not stand for {missing[0]!r}",
            hint="stop the service, delete that file and run tas init with every --name; the key and its pin stay",
        )
    return state


def _fill(state: State, names: tuple[str, ...]) -> None:
    if not state.tls_key.exists():
        _write_new(state.tls_key, tls.new_key())
    if not state.tls_cert.exists():
        _write_new(state.tls_cert, tls.self_signed(read_file(state.tls_key), names))
    if not state.api_key.exists():
        _write_new(state.api_key, secrets.token_hex(32).encode() + b"\n")


def open_existing(folder: Path, *, complete: bool = True) -> State:
    """The state in ``folder``. Raises ConfigError if it is not there, not ours, or open to others."""
    try:
        info = folder.lstat()
    except OSError as exc:
        raise ConfigError(f"no TAS state at {folder}: {exc.strerror}", hint=f"tas init --state {folder}") from exc
    if not stat.S_ISDIR(info.st_mode):
        raise ConfigError(f"{folder} is not a directory")
    if info.st_uid != os.geteuid():
        raise ConfigError(f"{folder} belongs to uid {info.st_uid}, not to this user ({os.geteuid()})")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise ConfigError(f"{folder} is open to other users", hint=f"chmod 700 {folder}")
    state = State(folder)
    if complete and not state.api_key.exists():
        raise ConfigError(f"no TAS state at {folder}", hint=f"tas init --state {folder}")
    return state


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """A whole file of at most ``limit`` bytes. Raises ConfigError."""
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
    if len(data) > limit:
        raise ConfigError(f"{path}: more than {limit} bytes")
    return data


def _write_new(path: Path, data: bytes) -> None:
    # Written whole under another name first: a crash leaves the old file or the new one, never half of one.
    draft = path.with_name(path.name + ".new")
    with os.fdopen(_open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(path)
    folder = _open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc
