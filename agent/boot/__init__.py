"""Early boot: one short-lived process opens the volumes, another looks where root lies before it is entered.

``main`` decides whether the boot may go on; the shell around it only obeys (initramfs/scripts). Exit 0 means go on,
anything else means stop the machine: a crash here must never end at a prompt or a shell that is not ours (DESIGN.md,
I9). Modules are imported late, for DHCP is to run while the slow ones load.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import cast

from agent.boot.console import say
from agent.boot.report import Report
from agent.core.errors import TeeAgentError

GO_ON, STOP = 0, 1
STEPS = {"unlock": "agent.boot.early", "root": "agent.boot.root"}
"""Step and the module whose ``run(report)`` does it."""


def main(argv: Sequence[str]) -> int:
    """``unlock`` or ``root``. Returns 0 when the boot may go on, else 1, the reason said and reported."""
    report = Report.load() if argv[0] == "root" else Report()
    run = cast("Callable[[Report], None]", importlib.import_module(STEPS[argv[0]]).run)
    try:
        run(report)
        report.save()
    except TeeAgentError as error:
        say(error.code, error.message, error.hint)
        report.stopped(error)
        return STOP
    sys.stderr.flush()
    return GO_ON
