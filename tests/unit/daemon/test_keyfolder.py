"""The folder of persistent keys: what lasts, in which order it is written, and what is wiped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.algorithm import ALGORITHMS
from agent.core.errors import (
    ConfigError,
    Conflict,
    FormatError,
    ServerError,
)
from agent.core.statement import AuditHead
from agent.daemon.keyfile import COPY, INDEX
from agent.daemon.keyfolder import KeyFolder
from agent.daemon.privatekey import PrivateKey, sealed
from tests.support.keyfolders import (
    STEPS,
    after_a_crash,
    fresh,
    key_file,
    made,
    names,
    public,
    put,
    sealer,
    spkis,
    stored,
)


def test_what_was_put_is_there_and_what_was_removed_is_not(tmp_path: Path) -> None:
    folder = made(tmp_path / "keys")
    privates = {name.lower(): put(folder, name.lower(), name, name) for name in ALGORITHMS}
    put(folder, "gone")
    newer = put(folder, "ed25519", namespace="team")
    assert folder.remove(("uid-1", "gone")) == folder.serial == len(ALGORITHMS) + 3
    expected = {f"uid-1/{name}": [key.spki for key in keys] for name, keys in privates.items()}
    contents = after_a_crash(folder.path, tmp_path / "copy")
    assert spkis(contents) == {**expected, "team/ed25519": [newer[0].spki]}
    assert (contents.broken, contents.notes, contents.removed, contents.serial) == ({}, [], 0, folder.serial)
    for found in contents.keys:
        if found.stored.namespace == "uid-1":
            again = stored(found.stored.name, privates[found.stored.name])
            assert (found.stored.generations, found.stored.lifetime) == (again.generations, again.lifetime)
            assert (found.stored.use, found.stored.algorithm) == (again.use, again.algorithm)
    assert {one.stat().st_mode & 0o777 for one in folder.path.iterdir()} == {0o600}
    assert folder.names() == {found.stored.key for found in contents.keys}


def test_a_key_s_file_is_replaced_and_the_old_one_goes(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    old = key_file(tmp_path, "a")
    new = put(folder, "a", "Ed25519", "Ed25519")
    assert not old.exists()
    assert names(tmp_path) == [INDEX, COPY, "lock", "uid-1@a"]
    folder.release()
    (found,) = fresh(tmp_path).keys
    assert public(found) == [key.spki for key in new]


def test_nothing_readable_is_on_the_disk(tmp_path: Path) -> None:
    folder = made(tmp_path)
    seen: list[bytes] = []
    for name in ALGORITHMS:
        (key,) = put(folder, name.lower(), name)

        def look(plain: bytearray) -> bytes:
            seen.append(bytes(plain))
            return b""

        sealed(b"", [key], look)
    written = b"".join(one.read_bytes() for one in tmp_path.iterdir())
    for secret in seen:
        assert len(secret) in (32, 48)
        assert secret not in written
        assert secret.hex().encode() not in written


def test_the_buffer_of_secrets_is_wiped_even_when_sealing_fails() -> None:
    kept: list[bytearray] = []

    def refuse(plain: bytearray) -> bytes:
        kept.append(plain)
        assert any(plain)
        raise FormatError("no")

    with pytest.raises(FormatError):
        sealed(b"head", [PrivateKey(ALGORITHMS["ECDSA-P384"])] * 2, refuse)
    assert kept == [bytearray(4 + 96)]


def test_two_processes_on_one_folder_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    for attempt in (KeyFolder(tmp_path).lock, lambda: KeyFolder(tmp_path).open(sealer())):
        with pytest.raises(Conflict) as caught:
            attempt()
        assert caught.value.code == "conflict.running"
    folder.release()
    assert len(fresh(tmp_path).keys) == 1


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o750, 0o705, 0o770):
        tmp_path.chmod(mode)
        with pytest.raises(ConfigError, match="the signer's user alone"):
            KeyFolder(tmp_path).lock()
    link = tmp_path / "link"
    tmp_path.chmod(0o700)
    link.symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        KeyFolder(link).lock()
    with pytest.raises(ServerError) as caught:
        KeyFolder(tmp_path / "missing").open(sealer())
    assert caught.value.code == "server.storage"
    assert KeyFolder(tmp_path / "missing").names() == frozenset()


def test_the_index_says_where_the_audit_log_was(tmp_path: Path) -> None:
    heads = [AuditHead(number, f"{number:064x}") for number in (7, 8)]
    folder = KeyFolder(tmp_path, iter([heads[0], None, heads[1]]).__next__)
    folder.open(sealer())
    seen: list[AuditHead | None] = [None]
    for name in ("a", "b", "c"):
        put(folder, name)
        seen.append(after_a_crash(tmp_path, tmp_path.parent / f"{tmp_path.name}-{name}").audit)
    assert seen == [None, heads[0], None, heads[1]]


class Trace:
    """What is done to the disk, in order: the step, and the file without its id."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            path = Path(f"/proc/self/fd/{args[0]}").readlink() if isinstance(args[0], int) else Path(args[0])
            self.seen.append(f"{name} {re.sub(r'@[0-9a-f]{32}', '', path.name)}")
            return real(*args, **kwargs)

        return step


def whole(name: str, folder: str) -> list[str]:
    """How a file gets its content."""
    return [f"write {name}.new", f"fsync {name}.new", f"rename {name}.new", f"fsync {folder}"]


def test_each_step_is_on_the_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills keep what was written and not fsynced, so only the order shows that it would last."""
    folder = made(tmp_path / "keys")
    put(folder, "a")
    trace = Trace()
    for name in STEPS:
        monkeypatch.setattr(os, name, trace.wrap(name, getattr(os, name)))
    index = [*whole("index", "keys"), *whole("index.copy", "keys")]
    put(folder, "a")
    assert trace.seen == [*whole("uid-1@a.key", "keys"), *index, "unlink uid-1@a.key", "fsync keys"]
    trace.seen.clear()
    folder.remove(("uid-1", "a"))
    assert trace.seen == [*index, "unlink uid-1@a.key", "fsync keys"]
    trace.seen.clear()
    folder.remove(("uid-1", "a"))
    assert trace.seen == []


class Keeping:
    """A sealer that keeps what it gave."""

    kind = "tas"

    def __init__(self) -> None:
        self.given: list[bytearray] = []

    def seal(self, purpose: str, labels: tuple[str, ...], plaintext: bytes | bytearray) -> bytes:
        return sealer().seal(purpose, labels, plaintext)

    def unseal(self, purpose: str, labels: tuple[str, ...], blob: bytes) -> bytearray:
        self.given.append(sealer().unseal(purpose, labels, blob))
        return self.given[-1]


def test_what_was_unsealed_is_wiped(tmp_path: Path) -> None:
    folder = made(tmp_path)
    put(folder, "a")
    put(folder, "b", "ECDSA-P384")
    folder.release()
    keeping = Keeping()
    again = KeyFolder(tmp_path)
    assert len(again.open(keeping).keys) == 2
    again.release()
    secrets = [plain for plain in keeping.given if not plain.startswith(b"{")]
    assert len(secrets) == 2
    assert not any(any(plain) for plain in secrets)
