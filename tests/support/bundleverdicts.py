"""Bundles by a signer on each kind of machine, and verdicts on them."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.bundle import Bundle
from agent.core.errors import VerificationError
from agent.core.model import Tee
from agent.verify.bundle import BundleVerdict, verify_bundle
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from tests.support.bundles import PAYLOAD, Signer
from tests.support.simulator import anchor, machine

AT = datetime.now(UTC)
TEES = ("snp", "tdx")


@pytest.fixture(scope="module", params=TEES)
def signer(request: pytest.FixtureRequest, pki_state: Path) -> Signer:
    """One for each kind of machine."""
    return Signer.on(machine(request.param, pki_state), AT)


def verify(signer: Signer, bundle: Bundle | bytes, **changes: Any) -> BundleVerdict:
    """As somebody who trusts the machine's root and takes any workload, but for ``changes``.

    Those are members of Workload or Judge, and else what ``verify_bundle`` is asked.
    """
    data = bundle if isinstance(bundle, bytes) else bundle.encode()
    asked = {"payload": PAYLOAD, "any_workload": True, "at": AT, "anchors": (anchor(signer.machine.root),), **changes}
    workload = Workload(**_taken(Workload, asked))
    return verify_bundle(data, Judge(workload=workload, **_taken(Judge, asked)), **asked)


def _taken(kind: type[Workload | Judge], asked: dict[str, Any]) -> dict[str, Any]:
    """The members of ``kind`` out of ``asked``."""
    return {one.name: asked.pop(one.name) for one in fields(kind) if one.name in asked}


def failed(error: VerificationError) -> str:
    """Name of the check that failed: the last one, after good ones only."""
    assert not error.checks[-1].ok
    assert all(check.ok for check in error.checks[:-1])
    assert [check.number for check in error.checks] == list(range(1, len(error.checks) + 1))
    return error.checks[-1].name


def measurements(signer: Signer) -> dict[str, Any]:
    """Of the machine, as arguments of ``verify``."""
    fields = verify(signer, signer.bundle()).verified.fields
    if signer.tee is Tee.SNP:
        return {"measurement": bytes.fromhex(fields["measurement"])}
    rtmrs = {index: bytes.fromhex(fields[f"rtmr{index}"]) for index in range(3)}
    return {"mrtd": bytes.fromhex(fields["mr_td"]), "rtmrs": rtmrs}
