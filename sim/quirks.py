"""Oddities of real hosts, firmware and vendors' services, by name: each is options of a simulated machine.

A quirk is no fault: the machine works and what it makes is what it means to make. Whether a verifier takes it is
another matter; tests/integration/test_quirk_simulated.py has the verdict on each.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from agent.core.errors import UsageError
from sim.psp import GuestOptions, HostTable
from sim.qe import DELIVERED, Delivery, DomainOptions

_Options = TypeVar("_Options", GuestOptions, DomainOptions)
_LATE = timedelta(days=60)
"""Twice as long as collateral is good for."""
_ID_BLOCK: Mapping[str, Any] = {
    "family_id": b"family".ljust(16, b"\0"),
    "image_id": b"image".ljust(16, b"\0"),
    "guest_svn": 3,
    "id_key_digest": b"\x1d" * 48,
    "author_key_digest": b"\xa0" * 48,
}

SNP: Mapping[str, Mapping[str, Any]] = {
    "vlek": {"signing_key": "VLEK"},
    "vlek-masked-chip": {"signing_key": "VLEK", "mask_chip_id": True},
    "vlek-masked-key": {"signing_key": "VLEK", "mask_chip_id": True, "mask_chip_key": True},
    "masked-chip": {"mask_chip_id": True},
    "masked-key": {"signing_key": "NONE", "mask_chip_id": True, "mask_chip_key": True},
    "tcb-behind-certificate": {"tcb_steps": {"certified": 1}},
    "tcb-ahead-of-certificate": {"tcb_steps": {"certified": -1}},
    "reported-below-committed": {"tcb_steps": {"reported": -1}},
    "table-swapped": {"table": HostTable({"LEAF": "leaf", "ASK": "ark", "ARK": "issuer"})},
    "table-pem": {"table": HostTable(pem=True)},
    "table-padded": {"table": HostTable(tail=bytes(2048))},
    "table-garbage": {"table": HostTable(tail=b"\xa5" * 64)},
    "expired-crl": {"crl_age": _LATE},
    "future-crl": {"crl_age": -_LATE},
    "issuer-revoked": {"issuer_revoked": True},
    "id-block": {"id_block": _ID_BLOCK},
}
"""Fields of GuestOptions by quirk."""

TDX: Mapping[str, Mapping[str, Any]] = {
    "v5": {"version": 5},
    "v5-td15": {"version": 5, "td15": True},
    "relaunch": {"version": 5, "td15": True, "launch_steps": -2},
    "old-module": {"svn_steps": -2},
    "no-tcb-level": {"svn_steps": -6},
    "service-td": {"version": 5, "td15": True, "mr_service_td": b"\x5d" * 48},
    "sept-ve": {"sept_ve_disable": False},
    "expired-collateral": {"collateral_age": _LATE},
    "future-collateral": {"collateral_age": -_LATE},
    "pck-revoked": {"revoked": "pck"},
    "platform-ca-revoked": {"revoked": "platform"},
    "tcb-signer-revoked": {"revoked": "tcb-signing"},
    "chain-swapped": {"delivery": Delivery(order=(2, 1, 0))},
    "length-past-end": {"delivery": Delivery(said_length=DELIVERED)},
    "not-padded": {"delivery": Delivery(size=0)},
    "padded-garbage": {"delivery": Delivery(tail=b"\xa5")},
}
"""Fields of DomainOptions by quirk."""


def _names(tee: str, known: Mapping[str, object]) -> str:
    wrapper = textwrap.TextWrapper(100, initial_indent="  ", subsequent_indent="       ", break_on_hyphens=False)
    return wrapper.fill(f"{tee}: {' '.join(known)}")


HELP = f"""\
quirks (--quirk NAME, may be repeated): oddities of real hosts, firmware and vendors' services
{_names("snp", SNP)}
{_names("tdx", TDX)}"""


def with_quirks(options: _Options, names: Sequence[str]) -> _Options:
    """The options with these quirks too. Raises UsageError for a name that this kind of machine does not know."""
    known = SNP if isinstance(options, GuestOptions) else TDX
    for name in names:
        if name not in known:
            raise UsageError(f"unknown quirk {name!r}", hint=f"known here: {', '.join(known)}")
        options = dataclasses.replace(options, **known[name])
    return options
