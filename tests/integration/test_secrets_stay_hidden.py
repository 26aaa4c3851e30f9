"""No secret in anybody's arguments or environment, over the whole demo path, as the kernel saw every exec."""

from __future__ import annotations

import shutil
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sim import demo_chain
from sim.demo_world import BIN, World
from tests.support.daemon import open_folder

pytestmark = [pytest.mark.fuse, pytest.mark.root]


class TracedWorld(World):
    """Every command and process of the agent and the service runs under strace -f."""

    def _traced(self, name: str) -> tuple[str, ...]:
        trace = self.folder / f"{name}.{len(list(self.folder.glob('*.trace')))}.trace"
        # -I2: SIGTERM ends it and what it runs; by default it would not listen.
        return ("strace", "-I2", "-f", "-qq", "-xx", "-v", "-s", "100000", "-e", "trace=execve", "-o", str(trace))

    def agent(self, *words: str | Path, status: int = 0, stdin: bytes = b"") -> str:
        command = (*self._traced("agent"), BIN / "tee-agent", *words, "--config", self.config)
        return self.run(*command, status=status, stdin=stdin)

    def tas(self, *words: str | Path, status: int = 0) -> str:
        return self.run(*self._traced("tas"), BIN / "tas", *words, "--state", self.tas_state, status=status)

    def start(self, name: str, *argv: str | Path) -> None:
        super().start(name, *self._traced(name), *argv)

    def execs(self) -> str:
        return "\n".join(path.read_text() for path in self.folder.glob("*.trace"))


@pytest.fixture
def world(pki_state: Path) -> Iterator[TracedWorld]:
    if shutil.which("strace") is None:
        pytest.fail("strace is needed: make test installs it")
    # Not below pytest's folder: the signer's user may not pass through there.
    with open_folder() as folder, ExitStack() as stack:
        pki_state.mkdir(mode=0o700, exist_ok=True)
        (folder / "sim").symlink_to(pki_state)
        traced = TracedWorld("snp", folder, stack)
        demo_chain.start_simulator(traced)
        demo_chain.start_tas(traced)
        demo_chain.enrol(traced)
        demo_chain.format_image(traced)
        yield traced


def forms(secret: bytes) -> dict[str, str]:
    """How a secret could stand in an argument, each written as strace -xx does."""
    texts = {"raw": secret, "hex": secret.hex().encode(), "base64": b64encode(secret).rstrip(b"=")}
    return {name: "".join(f"\\x{byte:02x}" for byte in text) for name, text in texts.items()}


def test_whole_path_shows_no_secret_to_ps(world: TracedWorld) -> None:
    world.agent("disk", "bind", demo_chain.VOLUME, "--key-file", world.passphrase, "--unmeasured-boot")
    world.agent("disk", "test", demo_chain.VOLUME)
    world.agent("disk", "unlock", demo_chain.VOLUME)
    world.start("daemon", BIN / "tee-agent", "daemon", "--config", world.config)
    demo_chain.sign(world)
    world.agent("status")
    with sqlite3.connect(world.tas_state / "tas.sqlite") as database:
        (secret,) = database.execute("SELECT value FROM secrets").fetchone()
    database.close()
    execs = world.execs()
    # The trace is real: it has our commands, cryptsetup's, and what an argument looks like in it.
    assert forms(b"cryptsetup")["raw"] in execs
    assert forms(b"--key-slot")["raw"] in execs
    assert len(secret) >= 32
    for name, value in (("TAS secret", secret), ("passphrase", world.passphrase.read_bytes())):
        found = [form for form, text in forms(value).items() if text in execs]
        assert not found, f"{name} in an exec, as {found}"
