"""A simulator that writes down every REPORT_DATA that its hardware is given, in order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.core.model import Tee
from tests.support.simulator import Simulator

_ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = """
import sys
from sim import cli
from sim.psp import SecureProcessor
log, original = open(sys.argv.pop(1), "a", buffering=1), SecureProcessor.report
def report(self, report_data, *rest, **named):
    log.write(report_data.hex() + "\\n")
    return original(self, report_data, *rest, **named)
SecureProcessor.report = report
sys.exit(cli.main(sys.argv[1:]))
"""


class Record:
    """What the hardware was asked for so far."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> list[str]:
        """REPORT_DATA as hex."""
        return self._path.read_text().splitlines()


@contextmanager
def recording_simulator(folder: Path, state: Path) -> Iterator[tuple[Simulator, Record]]:
    """As tests.support.simulator.running_simulator, of SEV-SNP, with its record."""
    log, mount, export, control = (folder / name for name in ("report-data", "tsm", "endorsements", "sim.sock"))
    words = ["--tee", "snp", "--mount", str(mount), "--state", str(state), "--export", str(export)]
    words += ["--control", str(control), "--foreground", "--ready-fd", "1"]
    argv = [sys.executable, "-c", _SCRIPT, str(log), *words]
    with subprocess.Popen(argv, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield Simulator(Tee.SNP, process, mount, export, control), Record(log)
        finally:
            process.terminate()
            process.wait(30)
