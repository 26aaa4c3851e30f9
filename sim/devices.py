"""A TEE's face as device nodes, for kernels without configfs-tsm: /dev/sev-guest, or /dev/tdx_guest beside a QGS.

Source for TDX: Linux include/uapi/linux/tdx-guest.h, drivers/virt/coco/tdx-guest/tdx-guest.c.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from sim import qgs
from sim.cuse import Done, Memory, Node, Span
from sim.export import Machine
from sim.faults import Faults, FaultyProvider
from sim.kernel import Provider, failure
from sim.keys import State
from sim.psp import SecureProcessor
from sim.service import Face
from sim.sev_guest import SevGuest
from sim.tdreport import TdxModule
from tdx.report import SIZE

_REPORT_DATA = 64
TDX_GET_REPORT0 = 3 << 30 | (_REPORT_DATA + SIZE) << 16 | ord("T") << 8 | 1
"""_IOWR('T', 1, struct tdx_report_req): REPORTDATA in, TDREPORT out behind it."""


class TdxGuest:
    """The device. ``provider`` makes TDREPORTs."""

    name = "tdx_guest"

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def ioctl(self, command: int, argument: int, memory: Memory) -> Done:
        """Fulfils sim.cuse.Device."""
        if command != TDX_GET_REPORT0:
            raise failure(errno.ENOTTY)
        report_data = memory.read(argument, _REPORT_DATA)
        memory.claim(Span(argument + _REPORT_DATA, SIZE))
        return Done(0, self._provider.report(report_data, 0).outblob)


class QuotedNode:
    """A node, and the host's quote generation service for what comes out of it."""

    def __init__(self, node: Node, listen: Callable[[], qgs.Service]) -> None:
        self._node, self._listen = node, listen
        self._service: qgs.Service | None = None

    def open(self) -> None:
        """Raises PlatformError, Conflict."""
        self._service = self._listen()
        self._node.open()

    def serve(self, up: Callable[[], None]) -> None:
        self._node.serve(up)

    def close(self) -> None:
        self._node.close()
        if self._service:
            self._service.close()


def face(hardware: Machine, faults: Faults, state: State, address: qgs.Address) -> Face:
    """The device of this hardware; ``address`` is the quote generation service's (TDX)."""
    if isinstance(hardware, SecureProcessor):
        with state.locked():
            secret = state.kept("amd-guest-key", lambda: os.urandom(32))
        return Node(SevGuest(FaultyProvider(hardware, faults), faults, secret))
    module = TdxModule(state, hardware)
    node = Node(TdxGuest(FaultyProvider(module, faults)))
    return QuotedNode(node, lambda: qgs.Service(address, module, faults))
