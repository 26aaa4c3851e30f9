"""The host's quote generation service over vsock: a TDREPORT there, a quote back.

One connection per quote. Unlike a request to the firmware this one may be given up: the service ends by itself, so
every step stops at the deadline. Bounded in bytes by tdx.qgs. vsock is not part of the network namespace (Linux keeps
new namespaces in the global one unless told otherwise), so the quoter reaches the host without a network.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent.core.errors import (
    DeadlineExceeded,
    DeviceMissing,
    FirmwareBusy,
    FirmwareError,
    PermissionMissing,
    TeeAgentError,
    Truncated,
)
from agent.core.ports import Deadline
from tdx import qgs

HOST_CID = 2
"""VMADDR_CID_HOST (linux/vm_sockets.h)."""
Connect = Callable[[Deadline], socket.socket]
"""A connected stream socket. Raises OSError, DeadlineExceeded."""
_CHUNK = 64 * 1024
_NO_TRANSPORT = (errno.ENODEV, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENETUNREACH)


def vsock(port: int, cid: int = HOST_CID) -> Connect:
    """Connects to ``port`` of ``cid``."""

    def connect(deadline: Deadline) -> socket.socket:
        made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(deadline.remaining())
            made.connect((cid, port))
        except BaseException:
            made.close()
            raise
        return made

    return connect


class QuoteService:
    """The service behind ``connect``; ``where`` names it in messages."""

    def __init__(self, connect: Connect, where: str) -> None:
        self._connect = connect
        self._where = where

    def quote(self, report: bytes, deadline: Deadline) -> bytes:
        """The quote over a TDREPORT, at most tdx.qgs.MAX_QUOTE bytes.

        Raises DeviceMissing (no vsock), PermissionMissing, FirmwareBusy (nobody listens, or hangs up), FirmwareError
        (the service's own error, ``status`` set), FormatError and its kin, DeadlineExceeded.
        """
        with self._typed():
            connection = self._connect(deadline)
            with connection:
                _send(connection, qgs.frame(qgs.Request(report).encode()), deadline)
                size = qgs.framed_size(_receive(connection, qgs.PREFIX, deadline), qgs.MAX_RESPONSE)
                answer = qgs.parse_response(_receive(connection, size, deadline))
        if answer.error_code:
            raise FirmwareError(
                f"the host's quote service failed: {qgs.error_words(answer.error_code)}",
                status=answer.error_code,
                hint="the host's operator finds more in the log of qgsd",
                code="firmware.quote-service",
            )
        return answer.quote

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            if error.errno is None:  # ours; the kernel's own (a connect that nobody answered) has its number
                raise DeadlineExceeded(
                    f"{self._where}: no answer in time", hint="is qgsd on the host alive?"
                ) from error
            raise _failure(error, self._where) from error
        except OSError as error:
            raise _failure(error, self._where) from error


def _send(connection: socket.socket, data: bytes, deadline: Deadline) -> None:
    """All of it before the deadline: sendall's timeout is for the whole."""
    connection.settimeout(deadline.remaining())
    connection.sendall(data)


def _receive(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    """Exactly ``size`` bytes. Raises OSError, Truncated, DeadlineExceeded."""
    data = bytearray()
    while len(data) < size:
        connection.settimeout(deadline.remaining())
        chunk = connection.recv(min(_CHUNK, size - len(data)))
        if not chunk:
            raise _hung_up(len(data), size)
        data += chunk
    return bytes(data)


def _hung_up(got: int, size: int) -> TeeAgentError:
    """A service that is restarted hangs up before its answer; one that stops inside it is broken."""
    if not got and size == qgs.PREFIX:
        return FirmwareBusy(
            "the host's quote service hung up without an answer",
            hint="it refuses this request, or is being restarted: see qgsd on the host",
            code="firmware.busy.quote-service",
        )
    return Truncated(f"the quote service's answer ends after {got} of {size} bytes", record="QGS frame", offset=got)


def _failure(error: OSError, where: str) -> TeeAgentError:
    number = error.errno or 0
    message = f"{where}: {error.strerror or error} ({errno.errorcode.get(number, number)})"
    if number in _NO_TRANSPORT:
        return DeviceMissing(
            f"{message}: this machine has no vsock",
            hint="modprobe vmw_vsock_virtio_transport; the host must give the VM a vsock device",
            code="platform.device-missing.vsock",
        )
    if number in (errno.EACCES, errno.EPERM):
        return PermissionMissing(message, hint="a unit of systemd needs RestrictAddressFamilies=AF_VSOCK")
    return FirmwareBusy(
        message,
        errno=number,
        hint="nobody listens there yet: the host must run qgsd with vsock, on the port of evidence.qgs_port",
        code="firmware.busy.quote-service",
    )
