"""Which workload a verifier accepts: it has to be said, in exactly one way (DESIGN.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.core.errors import UsageError
from agent.core.model import Tee
from agent.core.policy import Policy


@dataclass(frozen=True, slots=True)
class Workload:
    """What the machine must run: a policy, or measurements given by hand, or, said aloud, anything.

    ``measurement`` (SNP) and ``mrtd`` with ``rtmrs`` 0 to 2 or more (TDX) have 48 bytes each. Raises UsageError when
    nothing was given, or two things.
    """

    policy: Policy | None = None
    measurement: bytes = b""
    mrtd: bytes = b""
    rtmrs: Mapping[int, bytes] = field(default_factory=dict)
    any_workload: bool = False

    def __post_init__(self) -> None:
        given = [self.policy is not None, bool(self.measurement), bool(self.mrtd or self.rtmrs), self.any_workload]
        if sum(given) != 1:
            raise UsageError(
                "say which workload to accept" if not any(given) else "say in one way only which workload to accept",
                hint="--policy FILE, or --measurement HEX (SNP), or --mrtd HEX with --rtmr 0=HEX --rtmr 1=HEX "
                "--rtmr 2=HEX (TDX), or --any-workload",
            )

    def required(self, tee: Tee) -> Policy | None:
        """The policy to apply, None for any workload. Raises UsageError for measurements that don't fit ``tee``."""
        if self.policy or self.any_workload:
            return self.policy
        return self._pinned(tee)

    def _pinned(self, tee: Tee) -> Policy:
        if self.measurement and tee is not Tee.SNP:
            raise UsageError("the evidence is a TDX quote: --measurement is SNP's", hint="--mrtd with --rtmr 0, 1, 2")
        if not self.measurement and tee is not Tee.TDX:
            raise UsageError("the evidence is an SNP report: --mrtd and --rtmr are TDX's", hint="--measurement HEX")
        if self.measurement:
            values = {"measurement": self.measurement}
        else:
            values = {"mr_td": self.mrtd, **{f"rtmr{index}": value for index, value in sorted(self.rtmrs.items())}}
            if not self.mrtd or not self.rtmrs.keys() >= {0, 1, 2} or self.rtmrs.keys() - {0, 1, 2, 3}:
                raise UsageError(
                    "MRTD covers the firmware only: RTMR0, 1 and 2 are required with it",
                    hint="--mrtd HEX --rtmr 0=HEX --rtmr 1=HEX --rtmr 2=HEX",
                )
        if any(len(value) != 48 for value in values.values()):
            raise UsageError("a measurement has 48 bytes: 96 hex digits")
        return Policy.pinning(tee, values)
