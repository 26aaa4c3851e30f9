"""Where the guest's root gets the next command and brings its exit status: HTTP on the host's loopback.

``@/path`` in a command is an address of the desk. One client, one request at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.vm.command import HarnessError

_BODY_MAX = 256 << 20


class Desk:
    """``script`` gives commands and whether each may fail; files below ``folder``/home are read and written.

    ``times``: seconds and command, in order. ``finished``: the last command was handed out.
    """

    def __init__(self, script: Iterator[tuple[str, bool]], folder: Path) -> None:
        self.url = ""
        self.times: list[tuple[float, str]] = []
        self.finished = False
        self._script, self._home = script, folder / "home"
        self._step, self._may_fail, self._since = "", False, 0.0
        self._guest = ""
        self._problem: Exception | None = None

    @contextmanager
    def served(self, guest: str, gateway: str) -> Iterator[Desk]:
        """Serve at ``gateway``, as the guest calls this machine; GET /guest is ``guest``."""
        desk = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply(desk._get(self.path))

            def do_POST(self) -> None:
                self._reply(desk._done(self._body().decode()))

            def do_PUT(self) -> None:
                self._reply(desk._put(self.path, self._body()))

            def _body(self) -> bytes:
                return self.rfile.read(min(int(self.headers["Content-Length"]), _BODY_MAX))

            def _reply(self, body: bytes | None) -> None:
                self.send_response(HTTPStatus.GONE if body is None else HTTPStatus.OK)
                self.send_header("Content-Length", str(len(body or b"")))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                """The console has it all."""

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://{gateway}:{server.server_port}"
            self._guest = guest.replace("@/", f"{self.url}/")
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()

    @property
    def where(self) -> str:
        return f"the last command was: {self._step}"

    def require_good(self) -> None:
        """Raises HarnessError once a command has failed, on either machine."""
        if self._problem:
            raise HarnessError(f"{self.where}\n{self._problem}") from self._problem

    def _get(self, path: str) -> bytes | None:
        if path == "/guest":
            return self._guest.encode()
        if path != "/next":
            return (self._home / Path(path).name).read_bytes()
        try:
            self._step, self._may_fail = next(self._script)
        except StopIteration:
            return None
        except (HarnessError, OSError, ValueError) as error:
            self._problem = error
            return None
        self._since = time.monotonic()
        self.finished = self._step == "reboot"
        return self._step.replace("@/", f"{self.url}/").encode() + b"\n"

    def _done(self, status: str) -> bytes:
        self.times.append((time.monotonic() - self._since, self._step))
        if (status != "0") != self._may_fail:
            self._problem = HarnessError(f"ended with {status} in the guest")
        return b""

    def _put(self, path: str, body: bytes) -> bytes:
        (self._home / Path(path).name).write_bytes(body)
        return b""
