"""The whole error taxonomy. One root; every class has a stable code, an exit status and a retry flag.

::

    TeeAgentError                    70  error
    |- UsageError                    64  usage            bad command line
    |- ConfigError                   78  config           configuration file: unknown key, wrong type, unsafe value
    |- PlatformError                 69  platform         this machine can't do it
    |  |- NoTee                          platform.no-tee
    |  |- DeviceMissing                  platform.device-missing
    |  `- PermissionMissing              platform.permission
    |- FirmwareError                 71  firmware         kernel or firmware answered with an error (errno, status kept)
    |  |- FirmwareBusy (retry)           firmware.busy
    |  `- GenerationRace (retry)         firmware.generation-race
    |- FormatError                   65  format           bytes that are not what they claim to be
    |  |- Truncated                      format.truncated
    |  |- Oversized                      format.oversized   longer than allowed, or trailing bytes
    |  `- UnsupportedVersion             format.version
    |- VerificationError             65  verify           well formed, but not to be believed
    |  |- ChainInvalid                   verify.chain
    |  |- UntrustedRoot                  verify.untrusted-root
    |  |- SignatureInvalid               verify.signature
    |  |- BindingMismatch                verify.binding
    |  |- OutOfValidity                  verify.validity
    |  |- Revoked                        verify.revoked
    |  |- TcbRejected                    verify.tcb
    |  |- Rollback                       verify.rollback
    |  `- PolicyViolation                verify.policy
    |- TransportError (retry)        75  transport        network: refused, reset, unreachable
    |  |- DeadlineExceeded (no retry)    transport.deadline
    |  |- TlsError (no retry)            transport.tls
    |  `- TooLarge (no retry)            transport.too-large
    |- ProtocolError                 76  protocol         peer does not speak the protocol
    |- ServerError (retry)           75  server           peer is temporarily unable (408, 429, 5xx)
    |- Denied                        77  denied           peer, or our own policy, said no
    |- SecretError                   70  secret           a released secret is unusable
    |  `- SecretRefused (77)              secret.refused   the service releases it not to this machine, whoever asked
    |- DiskError                     74  disk             device or cryptsetup failed
    |  |- HeaderRefused (65)             disk.header      LUKS header outside the allow-list
    |  |- HeaderTampered (65)            disk.tampered    header MAC, or read-back after an edit, differs
    |  `- NotBound (66)                  disk.not-bound   no tee-agent token on this volume
    `- Conflict                      73  conflict         state says no (already bound, already running)

An instance may narrow its class's code with ``code="format.snp.size"``; codes only ever get longer at the dot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from agent.core.model import Check


class TeeAgentError(Exception):
    """Root of all errors that cross a module boundary.

    ``message`` names what was wrong; ``hint`` says what to do next. Neither ever holds a secret.
    """

    code: str = "error"
    exit_status: ClassVar[int] = 70
    retry: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code:
            self.code = code

    def diagnostics(self) -> str:
        """What went wrong and what to do, in one or two lines."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(TeeAgentError):
    code = "usage"
    exit_status = 64


class ConfigError(TeeAgentError):
    code = "config"
    exit_status = 78


class PlatformError(TeeAgentError):
    code = "platform"
    exit_status = 69


class NoTee(PlatformError):
    code = "platform.no-tee"


class DeviceMissing(PlatformError):
    code = "platform.device-missing"


class PermissionMissing(PlatformError):
    code = "platform.permission"


class FirmwareError(TeeAgentError):
    """``errno`` is the kernel's, ``status`` the firmware's own word (0 where there is none)."""

    code = "firmware"
    exit_status = 71

    def __init__(self, message: str, *, errno: int = 0, status: int = 0, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.errno = errno
        self.status = status


class FirmwareBusy(FirmwareError):
    code = "firmware.busy"
    retry = True


class GenerationRace(FirmwareError):
    code = "firmware.generation-race"
    retry = True


class FormatError(TeeAgentError):
    """``record`` and ``offset`` (bytes from its start, -1 where none applies) say where."""

    code = "format"
    exit_status = 65

    def __init__(
        self,
        message: str,
        *,
        record: str = "",
        offset: int = -1,
        expected: str = "",
        got: str = "",
        hint: str = "",
        code: str = "",
    ) -> None:
        super().__init__(message, hint=hint, code=code)
        self.record = record
        self.offset = offset
        self.expected = expected
        self.got = got


class Truncated(FormatError):
    code = "format.truncated"


class Oversized(FormatError):
    code = "format.oversized"


class UnsupportedVersion(FormatError):
    code = "format.version"


class VerificationError(TeeAgentError):
    """``checks`` are those made so far, the failed one last: an auditor sees how far it got."""

    code = "verify"
    exit_status = 65

    def __init__(self, message: str, *, checks: Sequence[Check] = (), hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.checks = tuple(checks)


class ChainInvalid(VerificationError):
    code = "verify.chain"


class UntrustedRoot(VerificationError):
    code = "verify.untrusted-root"


class SignatureInvalid(VerificationError):
    code = "verify.signature"


class BindingMismatch(VerificationError):
    code = "verify.binding"


class OutOfValidity(VerificationError):
    code = "verify.validity"


class Revoked(VerificationError):
    code = "verify.revoked"


class TcbRejected(VerificationError):
    code = "verify.tcb"


class Rollback(VerificationError):
    code = "verify.rollback"


class PolicyViolation(VerificationError):
    code = "verify.policy"


class TransportError(TeeAgentError):
    code = "transport"
    exit_status = 75
    retry = True


class DeadlineExceeded(TransportError):
    code = "transport.deadline"
    retry = False


class TlsError(TransportError):
    code = "transport.tls"
    retry = False


class TooLarge(TransportError):
    code = "transport.too-large"
    retry = False


class ProtocolError(TeeAgentError):
    code = "protocol"
    exit_status = 76


class ServerError(TeeAgentError):
    """``retry_after`` is the peer's own wish in seconds, 0 where it has none."""

    code = "server"
    exit_status = 75
    retry = True

    def __init__(self, message: str, *, retry_after: float = 0.0, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint, code=code)
        self.retry_after = retry_after


class Denied(TeeAgentError):
    code = "denied"
    exit_status = 77


class SecretError(TeeAgentError):
    code = "secret"
    exit_status = 70


class SecretRefused(SecretError):
    code = "secret.refused"
    exit_status = 77


class DiskError(TeeAgentError):
    code = "disk"
    exit_status = 74


class HeaderRefused(DiskError):
    code = "disk.header"
    exit_status = 65


class HeaderTampered(DiskError):
    code = "disk.tampered"
    exit_status = 65


class NotBound(DiskError):
    code = "disk.not-bound"
    exit_status = 66


class Conflict(TeeAgentError):
    code = "conflict"
    exit_status = 73
