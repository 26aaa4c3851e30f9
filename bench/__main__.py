"""`make bench`: figures of this version against named peers, all in one run; DESIGN.md section 9 has the bars.

`python -m bench NAME...` measures parts and only prints; a whole run writes build/bench.json too. Exit status 0 when
all were measured, whether or not the bars are met: a bar that is missed is said, not hidden. 69: could not measure.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench import batches, boot, challenges, endurance, initramfs, quotes, running, secrets, signatures, verification
from bench.figure import Figure, table, write
from sim.demo_world import World
from tests.vm.command import HarnessError

OUTPUT = Path("build/bench.json")


def daemon() -> list[Figure]:
    """the daemon and the service as processes, and what they made verified"""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as folder, ExitStack() as stack:
        world = World("snp", Path(folder), stack)
        for step in (running.begin, running.start_and_memory, verification.snp_and_bundle):
            figures += step(world)
    return figures


PARTS: Mapping[str, Callable[[], list[Figure]]] = {
    "daemon": daemon,
    "signatures": signatures.over_the_socket,
    "batches": batches.signatures,
    "challenges": challenges.fresh,
    "endurance": endurance.endurance,
    "quotes": quotes.tdx_and_parsing,
    "secrets": secrets.released,
    "initramfs": initramfs.growth,
    "boot": boot.to_mapped,
}


def main() -> int:
    """Measure, print, write build/bench.json."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *PARTS], metavar="NAME", help="parts to measure; default: all")
    parser.add_argument("--list", action="store_true", help="list the parts")
    args = parser.parse_args()
    if args.list:
        sys.stdout.writelines(f"{name:<12} {(part.__doc__ or '').splitlines()[0]}\n" for name, part in PARTS.items())
        return 0
    if os.geteuid() != 0:
        sys.stderr.write("bench: root is needed, as for the demo\n")
        return 69
    figures, whole = _measured(args.name or list(PARTS))
    sys.stdout.write(table(figures))
    if not whole:
        return 69
    if not args.name:
        write(figures, OUTPUT)
        sys.stderr.write(f"written: {OUTPUT}\n")
    return 0


def _measured(names: list[str]) -> tuple[list[Figure], bool]:
    """What could be measured, and whether that is all: one part that fails takes no other with it."""
    figures: list[Figure] = []
    whole = True
    for name in names:
        sys.stderr.write(f"measuring: {name}\n")
        try:
            figures += PARTS[name]()
        except HarnessError as error:
            sys.stderr.write(f"bench: {name}: {error}\n")
            whole = False
    return figures, whole


if __name__ == "__main__":
    sys.exit(main())
