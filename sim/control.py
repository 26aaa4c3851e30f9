"""Changing faults while the simulator runs: one line in, one line out, on a Unix socket that only root may use.

``fault SPEC`` adds one, ``clear`` forgets all and ends a stall, ``faults`` lists what is still in line.
Example: ``python3 -m sim.control /run/sim.sock fault ebusy:2``
"""

from __future__ import annotations

import argparse
import os
import socket
import socketserver
import sys
import threading
from pathlib import Path

from agent.core.errors import TeeAgentError
from sim.faults import HELP, Faults, parse

_LINE_MAX = 1024
_SECONDS = 10.0


def answer(faults: Faults, line: str) -> str:
    """The line to send back: ``ok``, ``ok LIST`` or ``error TEXT``."""
    command, _, argument = line.strip().partition(" ")
    try:
        if command == "fault":
            faults.add(parse(argument))
        elif command == "clear":
            faults.clear()
        elif command == "faults":
            return " ".join(("ok", *faults.pending()))
        else:
            return f"error unknown command {command!r}: fault SPEC, clear, faults"
    except TeeAgentError as error:
        return f"error {error.message}"
    return "ok"


class Server(socketserver.ThreadingUnixStreamServer):
    """Serves ``path`` (0600) in a thread of its own until closed."""

    daemon_threads = True

    def __init__(self, path: Path, faults: Faults) -> None:
        self.faults = faults
        self.path = path
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Handler)
        finally:
            os.umask(before)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self.path.unlink(missing_ok=True)


class _Handler(socketserver.StreamRequestHandler):
    timeout = _SECONDS

    def handle(self) -> None:
        line = self.rfile.readline(_LINE_MAX).decode(errors="replace")
        if isinstance(self.server, Server):
            self.wfile.write(answer(self.server.faults, line).encode() + b"\n")


def ask(path: Path, line: str) -> str:
    """Send one command line to a running simulator. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(str(path))
        connection.sendall(line.encode() + b"\n")
        with connection.makefile("r") as stream:
            return stream.readline(_LINE_MAX).rstrip("\n")


def main() -> int:
    """``python3 -m sim.control SOCKET COMMAND [SPEC]``; exit 1 when the simulator says error, 69 when it is gone."""
    parser = argparse.ArgumentParser(
        prog="python3 -m sim.control",
        description="Change the faults of a running simulator.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("socket", type=Path, help="what the simulator was given as --control")
    parser.add_argument("command", choices=("fault", "clear", "faults"))
    parser.add_argument("spec", nargs="?", default="", help="for fault: NAME[:COUNT[:VALUE]]")
    arguments = parser.parse_args()
    try:
        reply = ask(arguments.socket, f"{arguments.command} {arguments.spec}")
    except OSError as error:
        sys.stderr.write(f"sim: {arguments.socket}: {error.strerror or error}\n")
        return 69
    sys.stdout.write(reply + "\n")
    return int(not reply.startswith("ok"))


if __name__ == "__main__":
    sys.exit(main())
