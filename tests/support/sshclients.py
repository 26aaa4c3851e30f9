"""Real ssh clients of a daemon that has keys for ssh: what the tests of its ssh socket share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.core.keydoc import decode
from agent.core.sshwire import PublicKey
from tests.support import keys
from tests.support.access import text
from tests.support.daemon import CLI, ROOT, Daemon, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator

PAYLOAD = b"a release\n"
NAMES = {"Ed25519": "ed", "ECDSA-P256": "p256", "ECDSA-P384": "p384"}
"""By their algorithms, the keys that are there."""


@contextmanager
def serving(pki_state: Path) -> Iterator[Daemon]:
    """A daemon with a socket for ssh, root's keys of NAMES, and one that is not for ssh."""
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        open_folder() as place,
        running_daemon(simulator, place, ssh_socket=True) as running,
    ):
        for algorithm, name in NAMES.items():
            keys.create(running, name, "ssh", algorithm)
        keys.create(running, "notssh", "jws")
        yield running


@contextmanager
def ruled(simulator: Simulator, *rules: dict[str, Any]) -> Iterator[Daemon]:
    """A daemon with these rules for its access policy, and without keys."""
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        (folder / "policy.d" / "10.toml").write_text(text(*rules))
        (folder / "policy.d" / "10.toml").chmod(0o644)
        with running_daemon(simulator, folder, ssh_socket=True) as running:
            yield running


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that every user may use, with the payload as ``message``."""
    with open_folder() as folder:
        folder.chmod(0o777)
        (folder / "message").write_bytes(PAYLOAD)
        yield folder


def agent(daemon: Daemon) -> Path:
    return daemon.runtime / "ssh.sock"


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


def command(daemon: Daemon, *words: str | Path) -> str:
    """A command of tee-agent that must succeed: what it prints."""
    argv = [*CLI, *map(str, words), "--config", str(daemon.config)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, timeout=60, text=True).stdout


def public(daemon: Daemon, place: Path, name: str) -> Path:
    command(daemon, "keys", "ssh", name, "-o", place / f"{name}.pub")
    return place / f"{name}.pub"


def signing_key(daemon: Daemon, name: str, query: str = "") -> PublicKey:
    return PublicKey.of(decode(keys.document(daemon, name, query)).spki)
