"""Fetch what one piece of evidence needs, or renew what a cache has: the composition of cache, web and both vendors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import snp.abi
from agent.collateral.amd import Amd
from agent.collateral.cache import GATE, Cache
from agent.collateral.gate import Gate
from agent.collateral.intel import Intel
from agent.collateral.keeper import Keeper, Outcome
from agent.collateral.web import Web
from agent.core.errors import UsageError
from agent.core.model import Tee, TrustAnchor
from agent.core.ports import Deadline
from agent.core.vendorconfig import EndorsementsConfig
from agent.verify.evidence import detect
from snp import kds
from snp.words import Product
from tdx import pcs
from tdx.pcs import Authority, Update

Now = Callable[[], datetime]
PRODUCTS = tuple(str(product) for product in Product)
_CHAIN = re.compile(rf"snp/({'|'.join(Product)})/(v[cl]ek)/(?:chain\.pem|crl\.der)", re.ASCII)
_TCB = re.compile(r"tdx/tcb/([0-9a-f]{12})-(standard|early)/tcb_info\.json", re.ASCII)
_CA = re.compile(r"tdx/crl/(platform|processor)\.der", re.ASCII)


@dataclass(frozen=True, slots=True)
class Services:
    """Whom to ask. ``root_crl`` is a whole address, the others are without a slash at the end."""

    kds_url: str = kds.BASE
    pcs_url: str = pcs.BASE
    root_crl: str = pcs.ROOT_CRL
    proxy: str = ""
    authorities: Path | None = None

    @classmethod
    def of(cls, config: EndorsementsConfig) -> Services:
        """A PCCS serves the root's CRL itself; Intel does that at another host."""
        root_crl = pcs.ROOT_CRL if config.pcs_url == pcs.BASE else config.pcs_url + pcs.ROOT_CRL_PATH
        return cls(config.kds_url, config.pcs_url, root_crl, config.proxy, config.ca_file)


@dataclass(frozen=True, slots=True)
class Fetcher:
    """``now`` gives the time that everything is judged at (aware UTC). ``early`` takes Intel's early statements too."""

    cache: Cache
    services: Services
    anchors: Sequence[TrustAnchor]
    now: Now
    early: bool = False
    force: bool = False

    def for_evidence(self, blob: bytes, auxblob: bytes, deadline: Deadline, product: str = "") -> tuple[Outcome, ...]:
        """What a verifier of this evidence needs. ``product`` (one of PRODUCTS) is for version 2 reports.

        A vendor's failure is an outcome. Raises FormatError, ChainInvalid for evidence that does not say what it
        needs, DeadlineExceeded while another process has the cache, PermissionMissing and UsageError for the folder.
        """
        if detect(blob) is Tee.SNP:
            report = snp.abi.parse(blob)
            line = kds.product_of(report, Product(product) if product else None)
            with self._keeper(deadline) as keeper:
                Amd(keeper, self.services.kds_url).for_report(report, line, auxblob)
        else:
            if product:
                raise UsageError("a product is for SNP reports only")
            target = pcs.target(blob)
            families = [(target.fmspc, update) for update in (Update if self.early else (Update.STANDARD,))]
            with self._keeper(deadline) as keeper:
                self._intel(keeper).gather(families, [target.ca])
        return tuple(keeper.outcomes)

    def renew(self, deadline: Deadline) -> tuple[Outcome, ...]:
        """Everything in the cache that ends one day. Raises as ``for_evidence``."""
        with self._keeper(deadline) as keeper:
            names = tuple(self.cache.names())
            for product, kind in _found(_CHAIN, names):
                Amd(keeper, self.services.kds_url).for_product(Product(product), kind.upper())
            families = [(bytes.fromhex(fmspc), Update(update)) for fmspc, update in _found(_TCB, names)]
            if families:
                self._intel(keeper).gather(families, [Authority(ca) for (ca,) in _found(_CA, names)])
        return tuple(keeper.outcomes)

    @contextmanager
    def _keeper(self, deadline: Deadline) -> Iterator[Keeper]:
        with self.cache.locked(deadline):
            gate = Gate(self.cache.folder / GATE, self.now)
            web = Web(gate, self.now, proxy=self.services.proxy, authorities=self.services.authorities)
            yield Keeper(self.cache, web, self.anchors, self.now(), deadline, self.force)

    def _intel(self, keeper: Keeper) -> Intel:
        return Intel(keeper, self.services.pcs_url, self.services.root_crl)


def _found(pattern: re.Pattern[str], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The groups of the names that match, each once."""
    return list(dict.fromkeys(match.groups() for name in names if (match := pattern.fullmatch(name))))
