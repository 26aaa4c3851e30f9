"""`make demo`: the main job on this machine, from the kernel's interface to a verified signature, then the refusals.

Everything is the real thing but the silicon: the agent and the attestation service run as installed commands, over
TLS, with cryptsetup on a LUKS2 image; only the evidence comes from the simulator, whose root must be trusted by name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sim import demo_attacks, demo_chain
from sim.demo_world import StepFailed, World


class Stage:
    """Prints each step with its time; a failed one prints what the command said."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.count = 0

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """One step. What it appends to the yielded list is printed below its line."""
        self.count += 1
        notes: list[str] = []
        begun = time.monotonic()
        try:
            yield notes
        except StepFailed:
            sys.stdout.write(f"{self.count:2}. {title}: FAILED\n")
            raise
        sys.stdout.write(f"{self.count:2}. {title:<66} {time.monotonic() - begun:6.2f} s\n")
        sys.stdout.writelines(f"      {line}\n" for note in notes for line in note.splitlines())
        sys.stdout.flush()


def play(tee: str) -> None:
    """The whole demo. Raises StepFailed."""
    stage = Stage()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="tee-agent-demo-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        world = World(tee, folder, stack)
        sys.stdout.write(f"tee-agent demo, simulated {'AMD SEV-SNP' if tee == 'snp' else 'Intel TDX'}\n\n")
        demo_chain.play(stage, world)
        sys.stdout.write("\nand what must not work:\n")
        demo_attacks.play(stage, world)
    left = leftovers(folder)
    if left:
        raise StepFailed(f"the demo left something behind: {left}")
    sys.stdout.write(
        f"\nall {stage.count} steps as they should be, {time.monotonic() - stage.started:.1f} s; nothing left behind\n"
    )


def leftovers(folder: Path) -> list[str]:
    """What still stands of the demo: mounts, processes, files."""
    found = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command:
                found.append(f"process {entry.name}: {command}")
    return found + ([str(folder)] if folder.exists() else [])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 every step as it should be, 1 not, 69 this machine can't run it."""
    parser = argparse.ArgumentParser(prog="python3 -m sim.demo", description=__doc__)
    parser.add_argument("--tee", choices=("snp", "tdx"), default="snp")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        sys.stderr.write("demo: root is needed (it mounts a FUSE tree and drops to another user): sudo make demo\n")
        return 69
    if not Path("/dev/fuse").exists():
        sys.stderr.write("demo: /dev/fuse is missing: modprobe fuse\n")
        return 69
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up behind itself then too
    try:
        play(args.tee)
    except StepFailed as failure:
        sys.stderr.write(f"\ndemo: {failure}\n")
        return 1
    except subprocess.TimeoutExpired as late:
        sys.stderr.write(f"\ndemo: too slow: {late.cmd}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
