"""A daemon with a key for each use, and the whole bundle of a compact one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core import attachdoc, compact
from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.keys import FORMATS, create
from tests.support.simulator import running_simulator

PAYLOAD = b"what was to be signed\n"
ALL = [b"one", b"", b"three" * 1000]


@contextmanager
def daemon_of_all_uses(pki_state: Path) -> Iterator[Daemon]:
    """The key for USE is called ``one-USE``."""
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example", keys_each_max=60) as running,
    ):
        for use in FORMATS:
            create(running, f"one-{use}", use)
        yield running


def joined(daemon: Daemon, short: bytes) -> bytes:
    """The whole bundle of a compact one, with the attachments that the agent gives."""
    found = compact.decode(short)
    reply = daemon.request("GET", f"/v1/attachments/{found.attachments.hex()}")
    assert (reply.status, reply.headers["Content-Type"]) == (200, attachdoc.MEDIA_TYPE)
    return compact.join(found, attachdoc.decode(reply.body)).encode()
