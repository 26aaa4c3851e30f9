"""A guest whose admin has begun: commands with real processes, beside a simulator and a service."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.simulator import Simulator
from tests.support.tas import RunningTas

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
# The machine that runs the tests has words on its command line that are none of ours.
UNDER_A_COMMAND_LINE = 'mount --bind "$1" /proc/cmdline; shift; exec "$@"'
PLAIN = "BOOT_IMAGE=/vmlinuz root=/dev/mapper/vault ro quiet"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def finding(self, subject: str, *, of: str = "findings") -> dict[str, str]:
        found: dict[str, str] = next(one for one in self.json[of] if one["subject"] == subject)
        return found


@dataclass
class Machine:
    """A guest's folder for configuration and disk, beside a simulator and a service."""

    folder: Path
    simulator: Simulator
    service: RunningTas

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "tee-agent.toml"

    @property
    def image(self) -> Path:
        return self.folder / "vault.img"

    def agent(self, *words: str, command_line: str = PLAIN) -> Done:
        line = self.folder / "cmdline"
        line.write_text(command_line + "\n")
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", UNDER_A_COMMAND_LINE, "sh", str(line)]
        argv += [sys.executable, "-W", "error", "-m", "agent.cli", *words, "--config", str(self.config)]
        done = subprocess.run(
            argv, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def setup(self, *words: str, pin: str | None = None, key: Path | None = None) -> Done:
        pins = [] if pin == "" else ["--pin", pin or self.service.pin]
        file = ["--api-key-file", str(key or self.service.api_key_file)]
        return self.agent("setup", "--url", self.service.url, *file, *pins, *words)

    def volume(self) -> list[str]:
        return ["--policy-id", "web-1", "--policy-id", "web-2", "--volume", f"vault={self.image}"]

    def copy(self, folder: Path) -> Machine:
        shutil.copytree(self.folder, folder)
        for file in (folder / "etc").iterdir():
            file.write_text(file.read_text().replace(str(self.folder), str(folder)))
        return Machine(folder, self.simulator, self.service)
