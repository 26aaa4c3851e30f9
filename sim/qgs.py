"""The host's quote generation service: TDREPORTs in, quotes out, on a vsock port or a Unix socket.

Source: Intel SGX DCAP, QuoteGeneration/quote_wrapper/{qgs,qgs_msg_lib}; messages are tdx.qgs's. A TDREPORT that this
platform did not make is refused, as the quoting enclave refuses one that it can't verify. A connection may ask again.
"""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from pathlib import Path
from typing import Protocol

from agent.core.errors import Conflict, FormatError, PlatformError, TeeAgentError, UnsupportedVersion
from sim.faults import Faults
from tdx import qgs

REQUEST_MAX = 1 << 16
"""Bytes of one message."""
SECONDS = 30.0
"""For a client to say something."""
REPORT_UNVERIFIED = 0x11001
"""TEE_ATT_ERROR_UNEXPECTED of the quoting library behind the service."""

Address = int | Path
"""A vsock port, on which every CID of this machine is answered, or a Unix socket."""


class Platform(Protocol):
    """The processor and its quoting enclave."""

    def quote(self, report: bytes) -> bytes:
        """Raises ValueError for a TDREPORT that is not its own."""
        ...


def answer(platform: Platform, message: bytes) -> bytes:
    """The response to one message, neither with its frame."""
    try:
        request = qgs.parse_request(message)
    except UnsupportedVersion:
        return qgs.Response(error_code=qgs.INVALID_VERSION).encode()
    except FormatError:
        return qgs.Response(error_code=qgs.INVALID_PARAMETER).encode()
    try:
        return qgs.Response(platform.quote(request.report)).encode()
    except ValueError:
        return qgs.Response(error_code=REPORT_UNVERIFIED).encode()


class Service(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens at ``address`` from the start, in a thread of its own, until closed."""

    daemon_threads = True
    allow_reuse_address = False
    request_queue_size = 64
    """Connections that wait to be accepted: with the library's five, a busy machine refuses guests."""

    def __init__(self, address: Address, platform: Platform, faults: Faults) -> None:
        """Raises Conflict, PlatformError."""
        self.platform, self.faults, self._address = platform, faults, address
        unix = isinstance(address, Path)
        self.address_family = socket.AF_UNIX if unix else socket.AF_VSOCK
        if isinstance(address, Path):
            address.unlink(missing_ok=True)
        super().__init__(("", 0), _Connection, bind_and_activate=False)
        try:
            self.socket.bind(str(address) if unix else (socket.VMADDR_CID_ANY, address))
            self.server_activate()
        except OSError as error:
            self.server_close()
            raise _refused(error, address) from error
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        if isinstance(self._address, Path):
            self._address.unlink(missing_ok=True)


class _Connection(socketserver.StreamRequestHandler):
    timeout = SECONDS
    server: Service

    def handle(self) -> None:
        try:
            while prefix := self.rfile.read(qgs.PREFIX):
                message = self.rfile.read(qgs.framed_size(prefix, REQUEST_MAX))
                fault = self.server.faults.take("qgs-error", "qgs-silent")
                if fault and fault.name == "qgs-silent":
                    return
                error = qgs.Response(error_code=qgs.UNEXPECTED).encode()
                self.wfile.write(qgs.frame(error if fault else answer(self.server.platform, message)))
        except (FormatError, OSError):
            return  # an unframed message has no answer, and a client that left needs none


def _refused(error: OSError, address: Address) -> TeeAgentError:
    where = str(address) if isinstance(address, Path) else f"vsock port {address}"
    if error.errno == errno.EADDRINUSE:
        return Conflict(f"{where}: somebody listens there", hint="stop that one, or choose another --qgs-port")
    return PlatformError(
        f"{where}: {error.strerror}", hint="" if isinstance(address, Path) else "modprobe vsock_loopback"
    )
