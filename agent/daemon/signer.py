"""The signer: the socket for everybody, and the keys. No network, no capabilities; it writes the
audit log and sealed keys, and reads endorsements and the access policy.
"""

from __future__ import annotations

import asyncio
import os
import resource
from functools import partial

from agent import rulefiles
from agent.core.config import Config
from agent.daemon import auditdisk, files, keydisk, openapi, peers, privileges, sockets, verifier
from agent.daemon.assembly import Early, Signer
from agent.daemon.completing import completer
from agent.daemon.guard import Guard
from agent.daemon.keys import Complete
from agent.daemon.names import SIGNER, SOCKETS, SSH
from agent.daemon.openapi import Description
from agent.daemon.role import Life, begin, live, rehardened
from agent.daemon.tasks import until_stopped
from agent.daemon.verifyapi import VerifyApi, judged
from agent.probe import preload

DESCRIPTORS = 8192
"""Sockets and pidfds of all connections, with room to spare."""


def start(config: Config, *, supervised: bool) -> int:
    """The role's process with this machine's endorsements. Raises as run."""
    preload()
    return run(config, completer(config.evidence.endorsements), supervised=supervised)


def run(config: Config, complete: Complete, *, supervised: bool) -> int:
    """The role's process. Raises ConfigError, Conflict, PermissionMissing, PlatformError."""
    life = begin(SIGNER, supervised=supervised)
    user = privileges.unprivileged(config.daemon.signer_user, "signer_user")
    guard = Guard(partial(rulefiles.load, config))
    folder, wanted = config.daemon.runtime_dir, config.daemon.ssh_socket
    listener, ssh = sockets.listen_with(folder, SOCKETS[SIGNER], SSH, wanted=wanted)
    description = Description(openapi.load())
    _more_descriptors()
    files.prepare(config.audit.folder, user.uid, user.gid, auditdisk.FOLDER_MODE)
    if config.sealing.root != "none":
        files.prepare(config.daemon.keys_folder, user.uid, user.gid, keydisk.FOLDER_MODE)
    if os.geteuid() == 0:
        privileges.leave_network()
    privileges.become(user)
    rehardened()
    early = Early(description, VerifyApi(verifier.spawn(judged)), peers.notes())
    for note in early.notes:
        life.log(note)

    async def main(life: Life) -> None:
        signer = Signer.assembled(config, complete, guard, early)
        guard.install(life)
        tasks = [asyncio.create_task(each) for each in signer.work(life, listener.sock, ssh.sock if ssh else None)]
        life.notifier.ready(f"serves {listener.path}")
        try:
            await until_stopped(life.stop, tasks)
            await signer.drain()
        finally:
            for task in tasks:
                task.cancel()
            signer.close()

    return live(life, main)


def _more_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
