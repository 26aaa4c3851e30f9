"""Command lines: explicit, without secrets; exit statuses become errors that say what happened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import DiskError
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.disk import cryptsetup
from agent.disk.device import Device
from agent.disk.ramcopy import RamCopy
from agent.run import Completed

KEY, EXISTING = b"\x00\x0a\xff" * 11, b"existing passphrase"
DEVICE = Device(Path("/dev/vdb"), 77, 1 << 25, is_block=True)
COPY = RamCopy(78)
ANY = Deadline(60, "test")


class Recorder:
    """Stands for ``agent.run.run``: what it was given, and the answer it gives."""

    def __init__(self, returncode: int = 0, stderr: bytes = b"") -> None:
        self.answer = (returncode, b"", stderr)
        self.argv: tuple[str, ...] = ()
        self.options: dict[str, Any] = {}
        self.stdin = self.new_key = b""

    def __call__(self, argv: tuple[str, ...], **options: Any) -> Completed:
        self.argv, self.options = tuple(argv), options
        stdin = options["stdin"]
        self.stdin = bytes(stdin.reveal()) if isinstance(stdin, Secret) else stdin or b""
        if "--new-keyfile" in argv:
            self.new_key = os.read(int(argv[argv.index("--new-keyfile") + 1].rpartition("/")[2]), 4096)
        return Completed(self.argv, *self.answer)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(cryptsetup, "run", recorder)
    return recorder


def test_open_from_the_copy(door: Recorder) -> None:
    assert cryptsetup.test_open(DEVICE, COPY, 3, Secret(KEY), ANY)
    assert door.argv == (
        *("cryptsetup", "open", "--batch-mode", "--type", "luks2", "--disable-external-tokens", "--disable-locks"),
        *("--key-file", "-", "--test-passphrase", "--header", "/proc/self/fd/78", "--key-slot", "3", "/dev/vdb"),
    )
    assert (door.stdin, door.options["pass_fds"]) == (KEY, (78,))


def test_map_from_the_copy(door: Recorder) -> None:
    cryptsetup.open_mapped(DEVICE, COPY, 3, Secret(KEY), name="data", deadline=ANY)
    assert door.argv == (
        *("cryptsetup", "open", "--batch-mode", "--type", "luks2", "--disable-external-tokens", "--disable-locks"),
        *("--key-file", "-", "--header", "/proc/self/fd/78", "--key-slot", "3", "/dev/vdb", "data"),
    )


def test_add_slot_names_every_parameter(door: Recorder) -> None:
    cryptsetup.add_slot(DEVICE, opener=0, existing=Secret(EXISTING), number=5, key=Secret(KEY), deadline=ANY)
    assert door.stdin == EXISTING
    assert door.new_key == KEY
    reader = door.options["pass_fds"][0]
    assert door.argv == (
        *("cryptsetup", "luksAddKey", "--batch-mode", "--type", "luks2", "--disable-external-tokens"),
        *("--key-file", "-", "--key-slot", "0", "--new-keyfile", f"/proc/self/fd/{reader}", "--new-key-slot", "5"),
        *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256"),
        *("--keyslot-cipher", "aes-xts-plain64", "--keyslot-key-size", "512", "/dev/vdb"),
    )
    # The child holds our lock on the device as long as it lives; we have closed the pipe.
    assert door.options["pass_fds"] == (reader, 77)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_kill_slot_gives_the_passphrase_of_another(door: Recorder) -> None:
    cryptsetup.kill_slot(DEVICE, 5, Secret(EXISTING), ANY)
    assert door.argv[1:] == (
        *("luksKillSlot", "--batch-mode", "--type", "luks2", "--disable-external-tokens", "--key-file", "-"),
        *("/dev/vdb", "5"),
    )
    assert door.stdin == EXISTING


@pytest.mark.parametrize("replace", [False, True])
def test_tokens_go_in_by_standard_input(door: Recorder, replace: bool) -> None:
    cryptsetup.put_token(DEVICE, 4, {"type": "tee-agent"}, replace=replace, deadline=ANY)
    assert door.stdin == b'{"type": "tee-agent"}'
    assert door.argv[1:3] == ("token", "import")
    assert ("--token-replace" in door.argv) is replace
    cryptsetup.remove_token(DEVICE, 4, ANY)
    assert door.argv[1:] == ("token", "remove", "--batch-mode", "--token-id", "4", "/dev/vdb")


def test_secrets_are_in_no_argument(door: Recorder) -> None:
    cryptsetup.add_slot(DEVICE, opener=0, existing=Secret(EXISTING), number=5, key=Secret(b"k" * 32), deadline=ANY)
    assert not [word for word in door.argv if "k" * 32 in word or EXISTING.decode() in word]


@pytest.mark.parametrize(
    ("returncode", "stderr", "said"),
    [
        (1, b"Keyslot open failed.\n", "cryptsetup open: wrong parameters: Keyslot open failed."),
        (3, b"", "cryptsetup open: out of memory"),
        (4, b"Device /dev/vdb is gone.\n", "cryptsetup open: wrong device: Device /dev/vdb is gone."),
        (5, b"a\nb\n", "cryptsetup open: device exists or is busy: b"),
        (77, b"\x1b[31mred\xff\n", "cryptsetup open: exit status 77: [31mred\ufffd"),
        (-9, b"", "cryptsetup open: killed by signal 9"),
    ],
)
def test_failures_say_what_happened(door: Recorder, returncode: int, stderr: bytes, said: str) -> None:
    door.answer = (returncode, b"", stderr)
    with pytest.raises(DiskError) as caught:
        cryptsetup.test_open(DEVICE, COPY, 3, Secret(KEY), ANY)
    assert (caught.value.message, caught.value.code) == (said, "disk.cryptsetup")


def test_a_wrong_passphrase_is_an_answer_when_trying_and_an_error_when_editing(door: Recorder) -> None:
    door.answer = (2, b"", b"No key available with this passphrase.\n")
    assert not cryptsetup.test_open(DEVICE, COPY, 3, Secret(KEY), ANY)
    with pytest.raises(DiskError, match="the passphrase opens no keyslot"):
        cryptsetup.kill_slot(DEVICE, 5, Secret(EXISTING), ANY)
    with pytest.raises(DiskError, match="the passphrase opens no keyslot"):
        cryptsetup.open_mapped(DEVICE, COPY, 3, Secret(KEY), name="data", deadline=ANY)
