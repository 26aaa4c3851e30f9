"""Signers that die at a step of their own, for tests/integration/test_keys_kill.py.

``python -m tests.support.keykill FOLDER``: for step 1, 2, ... a child process plays the same life of named keys with
its files in FOLDER/STEP and kills itself (SIGKILL) when it comes to that call of write, fsync, rename or unlink, a
write in its middle; what was answered before is in FOLDER/STEP.said, a line each. The last child gets through. Then
for each folder another child dies while it opens what the first one left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from agent.daemon.journal import Reports
from agent.daemon.keeper import Keeper
from agent.daemon.keyfolder import KeyFolder, Sealer
from tests.support import keyfolders
from tests.support.keyfolders import Steps
from tests.support.named import World
from tests.support.waiting import until

MINUTE = timedelta(minutes=1)
State = dict[str, list[str]]
"""By key: the public keys of its generations, oldest first, each as number and hex."""


class Life:
    """A signer's persistent keys, and what it said about them."""

    def __init__(self, path: Path, say: Callable[[bytes], object]) -> None:
        async def root() -> Sealer:
            return keyfolders.sealer()

        self.world = World(keeper=Keeper(KeyFolder(path), root, Reports()))
        self._say = say

    def answered(self, what: str) -> None:
        """One line: the state that must last from now on."""
        state: State = {}
        for key in self.world.keys.all():
            state.setdefault(key.name, []).append(f"{key.generation} {key.attachments.spki.hex()}")
        self._say(json.dumps({"what": what, "state": state}).encode() + b"\n")

    async def play(self) -> None:
        """Two keys; a rotation with overlap and one without; an overlap and a life that end; two destroyed."""
        keys, world = self.world.keys, self.world
        keeper = world.keeper
        assert keeper
        tasks = [asyncio.create_task(keeper.run(lambda *_: None)), asyncio.create_task(keys.run(lambda *_: None))]
        await until(lambda: keeper.summary()["open"])
        self.answered("begin")
        for name, kind in (("a", "Ed25519"), ("b", "ECDSA-P256"), ("c", "ECDSA-P384")):
            await keys.create("uid-1", name, kind, "raw", persistent=True)
            self.answered(f"create {name}")
        await keys.rotate("uid-1", "a", MINUTE)
        self.answered("rotate a")
        await keys.rotate("uid-1", "b", timedelta(0))
        keys.all()
        await self._followed()
        self.answered("rotate b")
        await keys.destroy("uid-1", "c")
        self.answered("destroy c")
        world.at += 2 * MINUTE
        keys.all()
        await self._followed()
        self.answered("overlap of a")
        await keys.create("uid-1", "d", "ECDSA-secp256k1", "raw", MINUTE, persistent=True)
        self.answered("create d")
        world.at += 2 * MINUTE
        keys.all()
        await self._followed()
        self.answered("life of d")
        await keys.destroy("uid-1", "a")
        self.answered("destroy a")
        await keys.create("uid-1", "a", "Ed25519", "raw", persistent=True)
        self.answered("create a")
        for task in tasks:
            task.cancel()

    async def _followed(self) -> None:
        """Until the files follow what ended."""
        keeper = self.world.keeper
        assert keeper
        keeper.wake()
        await until(lambda: keeper.summary()["unwritten"] == 0)


def killing(wanted: int) -> Steps:
    """The process ends at this step; a write in its middle."""

    def at(real: Callable[..., Any], name: str, args: Sequence[Any]) -> None:
        if name == "write" and len(args[1]) > 1:
            real(args[0], bytes(args[1])[: len(args[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    return Steps(wanted, at)


def child(work: Callable[[], None]) -> int:
    """How a process that does ``work`` ends: 0, or minus the signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def live(path: Path, step: int) -> None:
    """A whole life, or until ``step``."""
    path.mkdir(mode=0o700)
    out = os.open(path.with_suffix(".said"), os.O_WRONLY | os.O_CREAT)
    write = os.write

    async def main() -> None:
        life = Life(path, lambda line: write(out, line))
        await life.play()

    with killing(step).installed():
        asyncio.run(main())


def reopen(path: Path, step: int) -> None:
    """What a next start does to the folder, until ``step``."""
    with killing(step).installed():
        keyfolders.fresh(path)


def main(folder: Path) -> None:
    last = 1
    while child(partial(live, folder / str(last), last)) == -signal.SIGKILL:
        last += 1
    for step in range(1, last):
        child(partial(reopen, folder / str(step), 1 + step % 9))
    sys.stdout.write(f"{last}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
