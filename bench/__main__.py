"""`make bench`: figures of this version against named peers, all in one run; DESIGN.md section 9 has the bars.

Exit status 0 when all were measured, whether or not the bars are met: a bar that is missed is said, not hidden.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import running, verification
from bench.figure import Figure, table, write
from sim.demo_world import World

OUTPUT = Path("build/bench.json")


def main() -> int:
    """Measure, print, write build/bench.json."""
    if os.geteuid() != 0:
        sys.stderr.write("bench: root is needed, as for the demo\n")
        return 69
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="tee-agent-bench-") as folder, ExitStack() as stack:
        world = World("snp", Path(folder), stack)
        for part in (running.begin, running.start_and_memory, running.signatures, verification.snp):
            sys.stderr.write(f"measuring: {part.__name__.replace('_', ' ')}\n")
            figures += part(world)
    sys.stdout.write(table(figures))
    write(figures, OUTPUT)
    sys.stderr.write(f"written: {OUTPUT}\n")
    return 0


sys.exit(main())
