"""cryptsetup's command line: every parameter that matters is explicit, every secret goes in by a pipe.

Exit codes: cryptsetup(8), RETURN CODES. Opening happens from a sealed copy in RAM; edits happen on the device and are
judged by what they leave there (compare.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agent.core.errors import DiskError
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk.device import Device
from agent.disk.fields import CIPHER
from agent.disk.ramcopy import RamCopy
from agent.run import Completed, run

PROGRAM = "cryptsetup"
ITERATIONS = 1000
"""Of pbkdf2 in our keyslot: its passphrase has 256 random bits, stretching adds nothing (LUKS2's minimum)."""
AREA_KEY_BITS = 512
HASH = "sha256"
_WRONG_PASSPHRASE = 2
_MEANINGS = {1: "wrong parameters", 3: "out of memory", 4: "wrong device", 5: "device exists or is busy"}
_OPEN = ("open", "--batch-mode", "--type", "luks2", "--disable-external-tokens", "--disable-locks", "--key-file", "-")


def test_open(device: Device, copy: RamCopy, slot: int, key: Secret, deadline: Deadline) -> bool:
    """Whether ``key`` opens ``slot`` of the copy, over this device's data. Nothing is mapped. Raises DiskError."""
    argv = (*_OPEN, "--test-passphrase", "--header", copy.path, "--key-slot", str(slot), str(device.path))
    done = _call(argv, stdin=key, deadline=deadline, pass_fds=(copy.fd,))
    if done.returncode not in (0, _WRONG_PASSPHRASE):
        raise _failed(done)
    return done.returncode == 0


def open_mapped(device: Device, copy: RamCopy, slot: int, key: Secret, *, name: str, deadline: Deadline) -> None:
    """Map the data as /dev/mapper/``name`` with what ``slot`` of the copy gives. Raises DiskError."""
    argv = (*_OPEN, "--header", copy.path, "--key-slot", str(slot), str(device.path), name)
    _done(_call(argv, stdin=key, deadline=deadline, pass_fds=(copy.fd,)))


def add_slot(device: Device, *, opener: int, existing: Secret, number: int, key: Secret, deadline: Deadline) -> None:
    """Add keyslot ``number`` for ``key`` with our parameters; ``existing`` opens slot ``opener``. Raises DiskError."""
    with _pipe(key) as fd:
        argv = [
            *("luksAddKey", "--batch-mode", "--type", "luks2", "--disable-external-tokens"),
            *("--key-file", "-", "--key-slot", str(opener)),
            *("--new-keyfile", f"/proc/self/fd/{fd}", "--new-key-slot", str(number)),
            *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(ITERATIONS), "--hash", HASH),
            *("--keyslot-cipher", CIPHER, "--keyslot-key-size", str(AREA_KEY_BITS)),
            str(device.path),
        ]
        _done(_call(argv, stdin=existing, deadline=deadline, pass_fds=(fd, device.fd)))


def kill_slot(device: Device, number: int, other: Secret, deadline: Deadline) -> None:
    """Wipe keyslot ``number``. cryptsetup does it only if ``other`` opens one that remains. Raises DiskError."""
    argv = ("luksKillSlot", "--batch-mode", "--type", "luks2", "--disable-external-tokens", "--key-file", "-")
    _done(_call((*argv, str(device.path), str(number)), stdin=other, deadline=deadline, pass_fds=(device.fd,)))


def put_token(device: Device, number: int, document: Mapping[str, Any], *, replace: bool, deadline: Deadline) -> None:
    """Write token ``number``, in one header update. Raises DiskError."""
    argv = ["token", "import", "--batch-mode", "--token-id", str(number), "--json-file", "-"]
    argv += ["--token-replace"] if replace else []
    text = json.dumps(document).encode("ascii")
    _done(_call([*argv, str(device.path)], stdin=text, deadline=deadline, pass_fds=(device.fd,)))


def remove_token(device: Device, number: int, deadline: Deadline) -> None:
    """Remove token ``number``. Raises DiskError."""
    argv = ("token", "remove", "--batch-mode", "--token-id", str(number), str(device.path))
    _done(_call(argv, stdin=None, deadline=deadline, pass_fds=(device.fd,)))


def _call(
    argv: Sequence[str], *, stdin: Secret | bytes | None, deadline: Deadline, pass_fds: tuple[int, ...]
) -> Completed:
    return run((PROGRAM, *argv), stdin=stdin, deadline=deadline, pass_fds=pass_fds, max_output=64 * 1024)


def _done(completed: Completed) -> None:
    if completed.returncode != 0:
        raise _failed(completed)


def _failed(completed: Completed) -> DiskError:
    code = completed.returncode
    meaning = f"killed by signal {-code}" if code < 0 else _MEANINGS.get(code, f"exit status {code}")
    if code == _WRONG_PASSPHRASE:
        meaning = "the passphrase opens no keyslot"
    # cryptsetup's messages name devices and reasons, never key material.
    said = completed.stderr.decode("ascii", "replace").strip().splitlines()
    last = "".join(character for character in said[-1][:200] if character.isprintable()) if said else ""
    action = completed.argv[1]
    return DiskError(f"cryptsetup {action}: {meaning}" + (f": {last}" if last else ""), code="disk.cryptsetup")


@contextmanager
def _pipe(key: Secret) -> Iterator[int]:
    """A descriptor that gives ``key`` once. It is far smaller than a pipe's buffer, so the write can't block."""
    reader, writer = os.pipe()
    try:
        try:
            os.write(writer, key.reveal())
        finally:
            os.close(writer)
        yield reader
    finally:
        os.close(reader)
