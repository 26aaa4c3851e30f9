"""LUKS2 images for tests: real ones made by cryptsetup, small and cheap to open, and headers changed at will."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.core.config import VolumeConfig
from agent.core.model import Secret
from agent.core.ports import Deadline
from agent.disk import binary, header
from agent.disk.header import Header

PASSPHRASE = b"correct horse"
SECRET = bytes(range(32))
POLICY = "policy-a"
IMAGE_BYTES = 32 << 20
Change = Callable[[dict[str, Any]], None]
"""Of a LUKS2 document, in place."""
CHEAP = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")

needs_cryptsetup = pytest.mark.skipif(shutil.which("cryptsetup") is None, reason="cryptsetup is not installed")


def cryptsetup(*argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the real program, whatever its exit status."""
    return subprocess.run(["cryptsetup", "--batch-mode", *argv], input=stdin, capture_output=True, check=False)


def make_image(path: Path, *options: str) -> Path:
    """A formatted image that PASSPHRASE opens."""
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    done = cryptsetup("luksFormat", "--type", "luks2", *CHEAP, *options, "--key-file", "-", str(path), stdin=PASSPHRASE)
    assert done.returncode == 0, done.stderr
    return path


def opens(path: Path, passphrase: bytes = PASSPHRASE) -> bool:
    """Whether cryptsetup itself opens the image with ``passphrase``."""
    done = cryptsetup("open", "--type", "luks2", "--test-passphrase", "--key-file", "-", str(path), stdin=passphrase)
    return done.returncode == 0


def add_passphrase(path: Path, new: bytes, tmp_path: Path, *options: str) -> None:
    """What an admin does beside us: a further passphrase."""
    key = tmp_path / "new.key"
    key.write_bytes(new)
    done = cryptsetup("luksAddKey", *CHEAP, *options, "--key-file", "-", str(path), str(key), stdin=PASSPHRASE)
    assert done.returncode == 0, done.stderr


def volume(path: Path, name: str = "data", *policies: str) -> VolumeConfig:
    return VolumeConfig(name, str(path), policies or (POLICY,))


def fetching(secret: bytes = SECRET) -> Callable[[str, Deadline], Secret]:
    """A ``fetch`` that gives ``secret`` for every policy."""
    return lambda policy_id, deadline: Secret(secret)


def asking(passphrase: bytes = PASSPHRASE) -> Callable[[], Secret]:
    """An ``ask`` that gives ``passphrase``."""
    return lambda: Secret(passphrase)


def at(*path: str, to: Any) -> Change:
    """The change that puts ``to`` at ``path``."""

    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


def metadata(path: Path) -> dict[str, Any]:
    """The image's JSON, by the primary copy."""
    return copies(path.read_bytes())[1]


def copies(data: bytes) -> tuple[binary.Binary, dict[str, Any]]:
    """Binary part and JSON of the primary copy in ``data``."""
    fixed, text = binary.parse(data[: binary.size_of(data, "primary")], "primary")
    document: dict[str, Any] = json.loads(text)
    return fixed, document


def header_bytes(fixed: binary.Binary, document: Mapping[str, Any] | bytes) -> bytes:
    """Both copies with valid checksums, as a host could write them."""
    text = document if isinstance(document, bytes) else json.dumps(document, separators=(",", ":")).encode()
    return binary.build(fixed, text, "primary") + binary.build(fixed, text, "secondary")


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change an image's metadata in place, checksums and all: what a hostile host does."""
    with path.open("r+b") as file:
        fixed, document = copies(file.read(binary.SIZES[-1]))
        change(document)
        file.seek(0)
        file.write(header_bytes(fixed, document))


UUID = "4a041d8e-f6ab-47ec-b9e7-180d556a02cd"


def sample() -> tuple[binary.Binary, dict[str, Any]]:
    """A header as cryptsetup writes it, made here: keyslot 0 of an admin, keyslot 1 and token 0 of ours."""
    fixed = binary.Binary(0x4000, 7, bytes(48), bytes(range(64)), UUID, bytes(48))
    document = {
        "keyslots": {"0": keyslot(0), "1": keyslot(1)},
        "tokens": {"0": token_document()},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": "16777216",
                "size": "dynamic",
                "iv_tweak": "0",
                "encryption": "aes-xts-plain64",
                "sector_size": 4096,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2",
                "keyslots": ["0", "1"],
                "segments": ["0"],
                "hash": "sha256",
                "iterations": 1000,
                "salt": b64(bytes(32)),
                "digest": b64(bytes(range(32))),
            }
        },
        "config": {"json_size": "12288", "keyslots_size": "16744448"},
    }
    return fixed, document


def keyslot(number: int, **changes: Any) -> dict[str, Any]:
    """A pbkdf2 keyslot with its area at the place that goes with its number."""
    return {
        "type": "luks2",
        "key_size": 64,
        "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
        "area": {
            "type": "raw",
            "offset": str(32768 + number * 258048),
            "size": "258048",
            "encryption": "aes-xts-plain64",
            "key_size": 64,
        },
        "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": b64(bytes([number]) * 32)},
        **changes,
    }


def token_document(**changes: Any) -> dict[str, Any]:
    """A finished token of ours, for keyslot 1."""
    return {
        "type": "tee-agent",
        "keyslots": ["1"],
        "version": 1,
        "slot": 1,
        "state": "bound",
        "key_id": POLICY,
        "generation": 1,
        "mac": "00" * 32,
        **changes,
    }


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def load(data: bytes, size: int = IMAGE_BYTES) -> Header:
    """The header in ``data``, the beginning of a device of ``size`` bytes; beyond it the device is zero."""

    def read(offset: int, count: int) -> bytes:
        stop = min(offset + count, size)
        return data[offset:stop].ljust(max(0, stop - offset), b"\0")

    return header.load(read, size)


def sample_header(change: Callable[[dict[str, Any]], None] = lambda document: None) -> Header:
    """``sample`` with a change, parsed."""
    fixed, document = sample()
    change(document)
    return load(header_bytes(fixed, document))
