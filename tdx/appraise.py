"""What the endorsements say about a quote whose signatures hold: checks 9 to 13 of tdx.verify.

TCB info and QE identity come both or not at all, and so do the CRLs of root and PCK authority: a set with only a
part is refused, for a damaged part must not pass for an absent one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from agent.core.errors import TcbRejected, VerificationError
from agent.core.model import Endorsements
from tdx import tcb
from tdx.abi import Quote
from tdx.certs import Certificate, Crl, require_within
from tdx.chain import PckChain, crls_of, tcb_signers
from tdx.collateral import QeIdentity, TcbInfo, load_qe_identity, load_tcb_info
from tdx.ledger import Ledger

KEPT = 32
"""Entries of a memory; an entry is as large as what it verified."""
KEPT_BYTES = 256 * 1024
"""A bag above this is verified anew each time: strangers' bags must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Collateral:
    """Both statements, and the TCB signers whose key signed both."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    signers: tuple[Certificate, ...]


@lru_cache(KEPT)
def collateral(tcb_info: bytes, qe_identity: bytes, bag: tuple[bytes, ...], root: Certificate) -> Collateral:
    """The statements under ``root``, by signers in ``bag``. Raises ChainInvalid, SignatureInvalid, FormatError."""
    info, signers = load_tcb_info(tcb_info, tcb_signers(bag, root))
    identity, signers = load_qe_identity(qe_identity, signers)
    return Collateral(info, identity, signers)


@lru_cache(KEPT)
def crls(bag: tuple[bytes, ...], issuers: tuple[Certificate, ...]) -> tuple[tuple[Crl, ...], ...]:
    """The CRLs of each issuer in ``bag``; empty if it has none that could be Intel's. Raises ChainInvalid."""
    return crls_of(issuers, bag)


class Appraisal:
    """The endorsements' word on ``chain`` and what stands on it, at ``at``. Made empty; filled by its two methods.

    ``ends`` are the ends of validity of what was used.
    """

    def __init__(self, ledger: Ledger, chain: PckChain, at: datetime) -> None:
        self._ledger, self._chain, self._at = ledger, chain, at
        self._signers: tuple[Certificate, ...] = ()
        self.judgement: tcb.Judgement | None = None
        self.revocation = "not checked"
        self.not_checked: list[str] = []
        self.ends: list[datetime] = []

    @property
    def status(self) -> str:
        return self.judgement.status if self.judgement else "n/a"

    @property
    def advisories(self) -> tuple[str, ...]:
        return self.judgement.advisories if self.judgement else ()

    def fields(self) -> dict[str, Any]:
        if self.judgement is None:
            return {}
        return {"tcb_status": self.judgement.status, "tcb_status_detail": self.judgement.detail}

    def judge_tcb(self, quote: Quote, endorsements: Endorsements) -> None:
        """Checks 9 to 12. Raises VerificationError, FormatError."""
        if not endorsements.tcb_info and not endorsements.qe_identity:
            self.not_checked.append("TCB status: no TCB info and QE identity were given")
            return
        found = self._signed_collateral(endorsements)
        info, identity = found.tcb_info, found.qe_identity
        with self._ledger.check(10):
            require_within(info.period.issued, info.period.next_update, self._at, "TCB info")
            require_within(identity.period.issued, identity.period.next_update, self._at, "QE identity")
        with self._ledger.check(11):
            _require_platform(info, self._chain)
        with self._ledger.check(12) as detail:
            judgement = tcb.evaluate(info, identity, self._chain.platform, quote.body, quote.qe_report)
            _require_level(judgement)
            detail.append(judgement.status)
        self.judgement = judgement
        self.ends += [info.period.next_update, identity.period.next_update]
        self.ends += [signer.not_after for signer in self._signers]

    def _signed_collateral(self, endorsements: Endorsements) -> Collateral:
        with self._ledger.check(9):
            if not endorsements.tcb_info or not endorsements.qe_identity:
                raise VerificationError("TCB info and QE identity are needed together", code="verify.collateral")
            bag, root = endorsements.certificates, self._chain.root
            opened = collateral if sum(map(len, bag)) <= KEPT_BYTES else collateral.__wrapped__
            found = opened(endorsements.tcb_info, endorsements.qe_identity, bag, root)
            self._signers = _in_force(found.signers, self._at)
        return found

    def judge_revocation(self, bag: tuple[bytes, ...]) -> None:
        """Check 13, over the CRLs in ``bag``; after judge_tcb, whose signers it includes. Raises VerificationError."""
        issuers = (self._chain.root, self._chain.intermediate)
        held = ((self._chain.intermediate, *self._signers), (self._chain.leaf,))
        judged: list[Crl] = []
        if bag:
            with self._ledger.check(13):
                opened = crls if sum(map(len, bag)) <= KEPT_BYTES else crls.__wrapped__
                for found, certificates in zip(opened(bag, issuers), held, strict=False):
                    judged += _judged(found, certificates, self._at)
        if judged:
            self.revocation = f"as of {min(crl.this_update for crl in judged):%Y-%m-%dT%H:%M:%SZ}"
            self.ends += [crl.next_update for crl in judged]
        else:
            self.not_checked.append("revocation: no CRLs of this chain's authorities were given")


def _require_platform(info: TcbInfo, chain: PckChain) -> None:
    platform = chain.platform
    if (info.fmspc, info.pceid) != (platform.fmspc, platform.pceid):
        raise TcbRejected(
            f"TCB info is for FMSPC {info.fmspc.hex()}, PCEID {info.pceid.hex()};"
            f" the platform has {platform.fmspc.hex()}, {platform.pceid.hex()}",
            code="verify.tcb.platform",
        )


def _require_level(judgement: tcb.Judgement) -> None:
    if judgement.status in tcb.FAILURES:
        raise TcbRejected(
            f"TCB status is {judgement.status}",
            hint=f"advisories: {', '.join(judgement.advisories)}" if judgement.advisories else "",
            code="verify.tcb.revoked" if judgement.status == tcb.REVOKED else "verify.tcb.no-level",
        )


def _in_force(signers: tuple[Certificate, ...], at: datetime) -> tuple[Certificate, ...]:
    """Those within their dates. Raises OutOfValidity when there is none."""
    current = tuple(signer for signer in signers if signer.not_before <= at <= signer.not_after)
    if not current:
        signers[0].require_valid(at)
    return current


def _judged(found: tuple[Crl, ...], certificates: tuple[Certificate, ...], at: datetime) -> list[Crl]:
    """The current ones of ``found``, none of which revokes any of ``certificates``. Raises Revoked, OutOfValidity."""
    current = [crl for crl in found if crl.this_update <= at <= crl.next_update]
    if not current:
        found[0].require_current(at)
    for crl in current:
        for certificate in certificates:
            crl.require_not_revoked(certificate)
    return current
