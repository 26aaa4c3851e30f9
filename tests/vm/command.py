"""The harness's own door to commands, and its places under build/. Everything it starts is nice to the machine."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"
VM = BUILD / "vm"
NICE = ("nice", "-n", "5")
COMMAND_SECONDS = 900


class HarnessError(Exception):
    """The harness itself could not do its work (no scenario was judged); the text says what it tried and what came."""


def run(
    *argv: str | Path, stdin: bytes = b"", env: Mapping[str, str] | None = None, seconds: float = COMMAND_SECONDS
) -> str:
    """Run a command that must succeed; stdout and stderr together. Raises HarnessError."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            [*NICE, *words],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            cwd=REPOSITORY,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise HarnessError(f"{' '.join(words)}\ntook more than {seconds:.0f} s") from late
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        raise HarnessError(f"{' '.join(words)}\nended with {done.returncode}:\n{text[-4000:]}")
    return text


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time: two test workers must not build the same image."""
    VM.mkdir(parents=True, exist_ok=True)
    with (VM / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
