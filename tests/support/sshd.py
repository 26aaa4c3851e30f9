"""A real sshd on loopback, with keys, users and a home of the test's own; no server is installed for it.

Its packages are unpacked under build/ at the first call (tests.vm.aptroot), for an installed one would be started at
once. It runs in a mount namespace in which it finds its user and an empty /run: nothing of the machine is changed.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ssh, tools
from tests.vm import aptroot
from tests.vm.command import BUILD, locked

CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {place}/host
AuthorizedKeysFile {place}/authorized
PermitRootLogin yes
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
AllowAgentForwarding yes
AllowTcpForwarding yes
PidFile none
LogLevel VERBOSE
"""
HELPERS = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
"""Programs that newer ones are made of (OpenSSH 9.8, 10), by the setting that says where each is."""
PRIVATE = """
set -e
mount -t tmpfs none /run && mkdir -m 755 /run/sshd
cat /etc/passwd > "$1/passwd"
grep -q ^sshd: /etc/passwd || echo 'sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin' >> "$1/passwd"
sed -i -E "s,^root:[^:]*:([^:]*:[^:]*:[^:]*):[^:]*:,root:x:\\\\1:$1/home:," "$1/passwd"
echo 'root:*:19000:0:99999:7:::' > "$1/shadow"
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow
exec "$2" -D -e -f "$1/sshd_config"
"""


def unpacked() -> Path:
    """The folder of its packages. Skips where the package index can't be reached; another failure is one."""
    release = aptroot.release()
    root = BUILD / f"sshd-{release}"
    with locked("sshd"):
        if not root.is_dir():
            fresh = root.with_name(f"{root.name}-unfinished")
            try:
                aptroot.unpack(
                    fresh, (release,), [f"{name}/{release}" for name in ("openssh-server", "openssh-client")]
                )
            except aptroot.UnreachableError as error:
                pytest.skip(f"no sshd to log in to: {error}")
            fresh.rename(root)
    return root


@dataclass(frozen=True, slots=True)
class Server:
    """Listens at ``port`` of loopback; who logs in is in ``authorized``."""

    port: int
    place: Path

    @property
    def authorized(self) -> Path:
        return self.place / "authorized"

    @property
    def log(self) -> str:
        return (self.place / "log").read_text()

    def accepted(self) -> list[str]:
        """The fingerprints of the keys that logged in, in order."""
        lines = [line for line in self.log.splitlines() if line.startswith("Accepted publickey for root ")]
        return [line.split()[-1] for line in lines]

    def login(
        self, agent: Path, *words: str, user: list[str] | None = None, **settings: str
    ) -> subprocess.CompletedProcess[bytes]:
        """A login as root with the keys of this agent: ``words`` are options of ssh, ``--``, and a command."""
        given = {
            "HostName": "127.0.0.1",
            "Port": str(self.port),
            "User": "root",
            "UserKnownHostsFile": str(self.place / "known"),
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "PreferredAuthentications": "publickey",
            "IdentityAgent": str(agent),
            **settings,
        }
        config = self.place / "ssh_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in given.items()))
        at = words.index("--") if "--" in words else len(words)
        argv = ["ssh", "-F", str(config), *words[:at], "server", *words[at + 1 :]]
        return ssh.client(agent, *argv, cwd=self.place, user=user or [])


@contextmanager
def server(folder: Path, *lines: str) -> Iterator[Server]:
    """One to which the keys of these lines log in as root. ``folder`` is empty or new, and kept."""
    root = unpacked()
    place = folder / "server"
    (place / "home").mkdir(parents=True)
    place.chmod(0o755)
    tools.output(tools.need("ssh-keygen"), "-q", "-t", "ecdsa", "-N", "", "-f", place / "host")
    with socket.socket() as held:
        # As long as it is bound and not listened at, nobody else is given this port, and sshd can have it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        found = Server(held.getsockname()[1], place)
        found.authorized.write_text("\n".join(lines))
        (place / "known").write_text(f"[127.0.0.1]:{found.port} {(place / 'host.pub').read_text()}")
        (place / "sshd_config").write_text(_config(root, found))
        with _running(root, place):
            yield found


def _config(root: Path, server: Server) -> str:
    programs = {name: root / "usr/lib/openssh" / program for name, program in HELPERS.items()}
    named = [f"{name} {path}\n" for name, path in programs.items() if path.exists()]
    return CONFIG.format(port=server.port, place=server.place) + "".join(named)


@contextmanager
def _running(root: Path, place: Path) -> Iterator[None]:
    argv = [tools.need("unshare"), "--mount", "sh", "-c", PRIVATE, "sh", str(place), str(root / "usr/sbin/sshd")]
    environment = {**os.environ, **aptroot.libraries(root)}
    with (place / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log, env=environment) as process:
        try:
            while b"Server listening" not in (place / "log").read_bytes():
                assert process.poll() is None, (place / "log").read_text()
            yield
        finally:
            process.terminate()
