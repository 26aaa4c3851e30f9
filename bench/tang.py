"""A tang server out of a guest's tree, on the host's loopback, and a volume bound to it by clevis."""

from __future__ import annotations

import socketserver
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm import tree

HOST = "http://10.0.2.2"
"""How QEMU's user networking names the host's loopback."""
_KEYS = "var/tmp/tang"
_BIND = "clevis luks bind -y -k /var/tmp/passphrase -d /var/tmp/disk.img tang"


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    command: tuple[str, ...] = ()


class _Connection(socketserver.BaseRequestHandler):
    """As systemd's tangd@.service: one process a connection, on its standard input and output."""

    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        connection = self.request.fileno()
        words = self.server.command
        subprocess.run(words, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL, timeout=30, check=False)


@contextmanager
def serving(root: Path) -> Iterator[int]:
    """New keys and a running server; its port on 127.0.0.1. ``root`` is a Debian tree with tang installed."""
    (root / _KEYS).mkdir()
    tree.inside(root, "/usr/libexec/tangd-keygen", f"/{_KEYS}")
    loader = root / "usr/lib64/ld-linux-x86-64.so.2"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    with _Server(("127.0.0.1", 0), _Connection) as server:
        program = (loader, "--library-path", libraries, root / "usr/libexec/tangd", root / _KEYS)
        server.command = tuple(map(str, program))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def bind(root: Path, disk: Path, port: int, passphrase: str) -> None:
    """Bind ``disk`` with the clevis of ``root``: the advertisement is fetched here, for the guest's address of it."""
    place = root / "var/tmp"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/adv", timeout=30) as answer:
        (place / "adv.jws").write_bytes(answer.read())
    (place / "passphrase").write_text(passphrase)
    disk.rename(place / "disk.img")
    pin = f'{{"url": "{HOST}:{port}", "adv": "/var/tmp/adv.jws"}}'
    tree.inside(root, *_BIND.split(), pin)
    (place / "disk.img").rename(disk)
