"""The cache of endorsements on disk: one folder, each statement under a name that says what it is for.

::

    snp/PRODUCT/KIND/chain.pem              authorities above VCEKs or VLEKs (KIND: vcek, vlek)
    snp/PRODUCT/KIND/crl.der                the ARK's CRL
    snp/PRODUCT/vcek/HWID/TCB.der           a chip's certificate at one TCB (16 hex digits)
    tdx/certs/SHA256.der                    TCB signers, PCK authorities, roots, by their own digest
    tdx/crl/root.der, tdx/crl/CA.der        the root's CRL; that of the platform or processor authority
    tdx/qe/UPDATE/qe_identity.json          UPDATE: standard, early
    tdx/tcb/FMSPC-UPDATE/tcb_info.json

Any reader that sorts by content (agent.verify.endorsements) can use it as it is. Other files in the folder are an
admin's own: never read here, never removed. A file's time says when the vendor last confirmed it or it was last used.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.collateral import files
from agent.core.errors import DeadlineExceeded, FormatError
from agent.core.ports import Deadline

MAX_FILE = 1 << 20
MAX_FILES = 16_384
"""Of ours; beyond it nothing is stored."""
LOCK, GATE = ".lock", ".not-before.json"
_POLL_SECONDS = 0.05
_PRODUCT = r"snp/[A-Z][a-z]{2,15}"
_NAMES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        _PRODUCT + r"/v[cl]ek/(chain\.pem|crl\.der)",
        _PRODUCT + r"/vcek/([0-9a-f]{16}|[0-9a-f]{128})/[0-9a-f]{16}\.der",
        r"tdx/certs/[0-9a-f]{64}\.der",
        r"tdx/crl/(root|platform|processor)\.der",
        r"tdx/qe/(standard|early)/qe_identity\.json",
        r"tdx/tcb/[0-9a-f]{12}-(standard|early)/tcb_info\.json",
    )
)


class Cache:
    """``folder`` is made when something is written. Use it under ``locked``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def locked(self, deadline: Deadline) -> Iterator[None]:
        """One process at a time. Drafts that a killed one left are removed. Raises DeadlineExceeded."""
        files.ensure_folder(self.folder)
        fd = files.open_lock(self.folder / LOCK)
        try:
            while not _flock(fd):
                self._wait(deadline)
            self._sweep()
            yield
        finally:
            os.close(fd)

    def _wait(self, deadline: Deadline) -> None:
        try:
            deadline.sleep(_POLL_SECONDS)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(f"{error.message}: another process is fetching into {self.folder}") from error

    def read(self, name: str) -> bytes | None:
        """What stands under ``name``; None for nothing, and for what can't be ours (a link, too long)."""
        return files.read_bounded(self._path(name), MAX_FILE)

    def confirmed(self, name: str) -> datetime:
        """When it was last written, confirmed or used."""
        return datetime.fromtimestamp(files.modified(self._path(name)), UTC)

    def touch(self, name: str) -> None:
        """Say that it was used now."""
        files.touch(self._path(name))

    def write(self, name: str, data: bytes) -> None:
        """Store; whole or not at all. Raises FormatError when the folder is full, PermissionMissing, UsageError."""
        path = self._path(name)
        if not files.is_file(path) and sum(1 for _ in self.names()) >= MAX_FILES:
            hint = "tee-agent endorsements prune removes what is no longer used"
            raise FormatError(f"{self.folder} has {MAX_FILES} files: nothing more is stored", record="cache", hint=hint)
        files.ensure_folder(path.parent)
        files.write_atomically(path, data)

    def names(self) -> Iterator[str]:
        """Names of all files that are ours, sorted."""
        for path in self._below():
            name = path.relative_to(self.folder).as_posix()
            if any(pattern.fullmatch(name) for pattern in _NAMES) and files.is_file(path):
                yield name

    def prune(self, keep: timedelta, now: datetime) -> tuple[str, ...]:
        """Remove what was neither confirmed nor used for so long; what was removed."""
        old = tuple(name for name in self.names() if now - self.confirmed(name) > keep)
        for name in old:
            files.remove(self._path(name))
        for folder in sorted({self._path(name).parent for name in old}, reverse=True):
            _remove_empty(folder, self.folder)
        return old

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _below(self) -> Iterator[Path]:
        for vendor in ("snp", "tdx"):
            for root, folders, names in os.walk(self.folder / vendor):
                folders.sort()
                yield from (Path(root, name) for name in sorted(names))

    def _sweep(self) -> None:
        for path in [*self.folder.iterdir(), *self._below()]:
            if path.name.startswith(".") and path.name.endswith(files.DRAFT):
                files.remove(path)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_empty(folder: Path, top: Path) -> None:
    """This folder and those above it below ``top``, as long as they are empty."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
