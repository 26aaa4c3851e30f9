"""/dev/sev-guest as Linux's driver behaves, over a simulated secure processor.

Sources: Linux drivers/virt/coco/sev-guest/sev-guest.c and arch/x86/coco/sev/core.c (6.12), AMD 56860 (statuses,
MSG_KEY_REQ). What is decided here: which bytes go where, and the form in which each failure comes: an errno alone, an
errno with exitinfo2, or a success that carries the firmware's status.
"""

from __future__ import annotations

import errno
import hashlib
import hmac

from agent.core.errors import FormatError
from sim.cuse import Done, Memory, Span
from sim.faults import Faults
from sim.kernel import PRIVLEVEL_MAX, Made, Provider, failure
from snp import abi
from snp import guestmsg as msg

_BELOW_DRIVER = {
    errno.EBUSY: (errno.EIO, msg.exitinfo2(vmm=msg.VMM_BUSY)),
    errno.EIO: (errno.EIO, msg.exitinfo2(firmware=0x13)),
    errno.ETIMEDOUT: (errno.ETIMEDOUT, msg.exitinfo2(vmm=msg.VMM_BUSY)),
    errno.EINTR: (errno.EINTR, msg.exitinfo2(firmware=msg.FW_NO_CALL)),
}
"""errno and exitinfo2 for what a provider raises. Busy as kernels before 6.3 show it; later ones try for a minute."""
_BOUND = {"policy": "policy", "image_id": "image_id", "family_id": "family_id", "measurement": "measurement"}
"""Report fields that a derived key may be bound to, by their names in GUEST_FIELD_SELECT."""


class SevGuest:
    """The device. ``secret`` (32 bytes) is what this chip derives keys from."""

    name = "sev-guest"

    def __init__(self, provider: Provider, faults: Faults, secret: bytes) -> None:
        self._provider, self._faults, self._secret = provider, faults, secret

    def ioctl(self, command: int, argument: int, memory: Memory) -> Done:
        """Fulfils sim.cuse.Device. ENOTTY: unknown command; also every command once the driver has lost its key."""
        control = msg.GuestRequest(memory.read(argument, msg.GuestRequest.SIZE))
        if not control.msg_version:
            raise failure(errno.EINVAL)
        call = _Call(control, Span(argument, control.SIZE), memory)
        match command:
            case msg.GET_REPORT:
                return self._report(call)
            case msg.GET_EXT_REPORT:
                return self._extended(call)
            case msg.GET_DERIVED_KEY:
                return self._key(call)
            case _:
                raise failure(errno.ENOTTY)

    def _report(self, call: _Call) -> Done:
        request = msg.ReportRequest(call.request(msg.ReportRequest.SIZE))
        call.claim(Span(call.control.resp_data, msg.REPORT_RESPONSE))
        try:
            made = self._make(request.user_data, request.vmpl)
        except OSError as error:
            return call.failed(error)
        return call.done(_response(made))

    def _extended(self, call: _Call) -> Done:
        """As many certificates as fit all, or their size in whole pages: the host gives all or none."""
        asked = msg.ExtReportRequest(call.request(msg.ExtReportRequest.SIZE))
        request = msg.ReportRequest(asked.request)
        room = asked.certs_len if asked.certs_address else 0
        if room > msg.MAX_CERTS or room % msg.PAGE:
            raise failure(errno.EINVAL)
        spans = [Span(call.control.req_data, asked.SIZE), Span(call.control.resp_data, msg.REPORT_RESPONSE)]
        call.claim(*spans, *([Span(asked.certs_address, room)] if room else []))
        try:
            made = self._make(request.user_data, request.vmpl)
        except OSError as error:
            return call.failed(error)
        needed = -(-len(made.auxblob) // msg.PAGE) * msg.PAGE
        if self._faults.take("invalid-len"):
            needed = max(needed, room) + msg.PAGE
        if needed > room:
            renamed = msg.ExtReportRequest.build(
                request=asked.request, certs_address=asked.certs_address, certs_len=needed
            )
            return call.ended(errno.EIO, msg.exitinfo2(vmm=msg.VMM_INVALID_LEN), renamed.data)
        return call.done(asked.data, _response(made), made.auxblob.ljust(room, b"\0"))

    def _key(self, call: _Call) -> Done:
        request = msg.DerivedKeyRequest(call.request(msg.DerivedKeyRequest.SIZE))
        call.claim(Span(call.control.resp_data, msg.KEY_RESPONSE))
        try:
            made = self._make(bytes(64), request.vmpl)
        except OSError as error:
            return call.failed(error)
        if not made.outblob:
            return call.done(msg.key_response(bytes(msg.KEY_SIZE), msg.FW_INVALID_PARAM))
        return call.done(msg.key_response(self._derived(request, made)))

    def _make(self, user_data: bytes, vmpl: int) -> Made:
        """A report; one without bytes where the firmware refuses the parameters."""
        try:
            return self._provider.report(user_data, vmpl) if vmpl <= PRIVLEVEL_MAX else Made(b"")
        except OSError as error:
            if error.errno == errno.EINVAL:
                return Made(b"")
            raise

    def _derived(self, request: msg.DerivedKeyRequest, made: Made) -> bytes:
        """Like AMD's in what it depends on, not in how: guest SVN and TCB count where they are selected."""
        try:
            report = abi.parse(made.outblob)
        except FormatError as error:  # cut by a fault
            raise failure(errno.EIO) from error
        selected = [name for name, bit in msg.FIELDS.items() if request.guest_field_select >> bit & 1]
        values = {name: str(getattr(report, field)) for name, field in _BOUND.items()}
        values |= {"guest_svn": str(request.guest_svn), "tcb_version": str(request.tcb_version)}
        text = [str(request.root_key_select), str(request.vmpl), *(f"{name}={values[name]}" for name in selected)]
        return hmac.new(self._secret, "\0".join(text).encode(), hashlib.sha256).digest()


class _Call:
    """One ioctl: its control structure, which is always the first thing written, and what follows it."""

    def __init__(self, control: msg.GuestRequest, span: Span, memory: Memory) -> None:
        self.control, self._span, self._memory = control, span, memory

    def request(self, size: int) -> bytes:
        """The firmware's request. Raises EINVAL without addresses."""
        if not self.control.req_data or not self.control.resp_data:
            raise failure(errno.EINVAL)
        return self._memory.read(self.control.req_data, size)

    def claim(self, *spans: Span) -> None:
        self._memory.claim(self._span, *spans)

    def done(self, *parts: bytes) -> Done:
        """Success: the control structure stays as it was."""
        return Done(0, b"".join((self.control.data, *parts)))

    def ended(self, number: int, exitinfo2: int, *parts: bytes) -> Done:
        """Failure that comes with exitinfo2."""
        return Done(-number, b"".join((self.control.data[:24], exitinfo2.to_bytes(8, "little"), *parts)))

    def failed(self, error: OSError) -> Done:
        """What the driver makes of a provider's failure. Raises it again where the driver writes nothing back."""
        if error.errno not in _BELOW_DRIVER:
            raise error
        return self.ended(*_BELOW_DRIVER[error.errno])


def _response(made: Made) -> bytes:
    if made.outblob:
        return msg.report_response(made.outblob)
    return msg.report_response(b"", msg.FW_INVALID_PARAM)
