"""AMD's part: authorities, CRL and a chip's VCEK from the Key Distribution Service, each verified by itself.

The CRL is stored for what it is, also when it revokes the very certificates beside it: dropping it would be failing
open. Source: AMD 57230, sections 2 to 4; the judgement is snp.chain's and snp.certs'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from agent.collateral.keeper import Keeper, Life
from agent.core.errors import ChainInvalid, FormatError, OutOfValidity, UntrustedRoot, VerificationError
from agent.core.model import Endorsements, TrustAnchor
from agent.core.x509 import Certificate
from snp import certs, certtable, chain, kds
from snp.abi import Report
from snp.words import Product

_ISSUER = {"VCEK": "SEV-", "VLEK": "SEV-VLEK-"}


class Amd:
    """``url`` is the service's, without a slash at the end."""

    def __init__(self, keeper: Keeper, url: str) -> None:
        self._keeper = keeper
        self._url = url

    def for_report(self, report: Report, product: Product, auxblob: bytes) -> None:
        """Everything for ``report``; the outcomes are the keeper's. A VLEK comes from the provider alone."""
        kind = report.signing_key
        if kind == "VCEK":
            name = f"{_folder(product, kind)}/{kds.hwid(report, product).hex()}/{report.reported_tcb:016x}.der"
        chain_pem = self.for_product(product, kind)
        if kind == "VCEK" and chain_pem:
            self._keeper.attempt(name, partial(self._leaf, name, report, product, chain_pem, auxblob))

    def for_product(self, product: Product, kind: str) -> bytes:
        """Authorities and CRL of a product line. Returns the authorities (PEM), b"" where they can't be had."""
        found: list[bytes] = []
        name = f"{_folder(product, kind)}/chain.pem"
        self._keeper.attempt(name, lambda: found.append(self._chain(name, product, kind)))
        for pem in found:
            crl = f"{_folder(product, kind)}/crl.der"
            self._keeper.attempt(crl, partial(self._crl, crl, product, kind, pem))
        return b"".join(found)

    def _chain(self, name: str, product: Product, kind: str) -> bytes:
        keeper = self._keeper

        def check(pem: bytes) -> Life:
            issuer, root = authorities(pem, kind, product, keeper.anchors, keeper.at)
            return Life(max(issuer.not_before, root.not_before), min(issuer.not_after, root.not_after))

        ask = self._ask(kds.chain_path(kind, product))
        # What stands around the certificates is signed by nobody: it is not kept.
        return keeper.keep(name, check, lambda: kds.chain_pem(*kds.parse_chain(ask())), lasting=True)

    def _crl(self, name: str, product: Product, kind: str, chain_pem: bytes) -> None:
        _, root = authorities(chain_pem, kind, product, self._keeper.anchors, self._keeper.at)
        check = partial(require_crl, root=root, at=self._keeper.at)
        self._keeper.keep(name, check, self._ask(kds.crl_path(kind, product)), lasting=False)

    def _leaf(self, name: str, report: Report, product: Product, chain_pem: bytes, auxblob: bytes) -> None:
        keeper = self._keeper
        above = kds.parse_chain(chain_pem)

        def check(der: bytes) -> Life:
            verified = chain.build(report, Endorsements((der, *above)), keeper.anchors, keeper.at, chain.Trail())
            return Life(verified.starts, verified.ends)

        def fetch() -> bytes:
            return _handed(auxblob, check) or self._ask(kds.vcek_path(report, product), kds.VCEK_SECONDS)()

        keeper.keep(name, check, fetch, lasting=True)

    def _ask(self, path: str, spacing: float = 0.0) -> _Ask:
        return _Ask(self._keeper, self._url + path, spacing)


class _Ask:
    """The request, for when it is needed."""

    def __init__(self, keeper: Keeper, url: str, spacing: float) -> None:
        self._keeper, self._url, self._spacing = keeper, url, spacing

    def __call__(self) -> bytes:
        return self._keeper.get(self._url, kds.MAX_ANSWER, self._spacing).body


def authorities(
    pem: bytes, kind: str, product: Product, anchors: Sequence[TrustAnchor], at: datetime
) -> tuple[Certificate, Certificate]:
    """Issuer and root in a cert_chain, believed: pinned key, signatures, names, authority, dates.

    Raises FormatError, ChainInvalid, UntrustedRoot, OutOfValidity.
    """
    issuer, root = (certs.parse_certificate(der) for der in kds.parse_chain(pem))
    if root.spki_sha256 not in {anchor.spki_sha256 for anchor in anchors}:
        digest = root.spki_sha256.hex()
        raise UntrustedRoot(f"root of the chain served is not a trusted ARK: {root.common_name}, key SHA-256 {digest}")
    names = (_ISSUER[kind] + product, f"ARK-{product}")
    if (issuer.common_name, root.common_name) != names or issuer.issuer != root.subject:
        raise ChainInvalid(f"the chain served is not {names[0]} under {names[1]}")
    for child in (root, issuer):
        if not certs.signed_by(child, root) or not certs.is_authority(child):
            raise ChainInvalid(f"{child.common_name} is not signed by {root.common_name}, or no authority")
        if not child.not_before <= at <= child.not_after:
            raise OutOfValidity(
                f"{child.common_name} is valid to {child.not_after:%Y-%m-%d}", hint="is the clock right?"
            )
    return issuer, root


def require_crl(data: bytes, root: Certificate, at: datetime) -> Life:
    """That this is ``root``'s CRL and in date, whatever it revokes. Raises FormatError, ChainInvalid, OutOfValidity."""
    crl = certs.parse_crl(data)
    if crl.issuer != root.subject or not certs.signed_by(crl, root):
        raise ChainInvalid(f"the CRL served is not signed by {root.common_name}", code="verify.chain.crl")
    if not crl.this_update <= at <= crl.next_update:
        dates = f"{crl.this_update:%Y-%m-%d} to {crl.next_update:%Y-%m-%d}"
        raise OutOfValidity(f"the CRL of {root.common_name} is for {dates}", code="verify.validity.crl")
    return Life(crl.this_update, crl.next_update)


def _handed(auxblob: bytes, check: Callable[[bytes], Life]) -> bytes:
    """The VCEK that the host gave with the report, if it is the right one: the service need not be asked."""
    try:
        found = certtable.certificates(auxblob).certificates
    except FormatError:
        return b""
    for der in found:
        try:
            if certs.parse_certificate(der).common_name == "SEV-VCEK":
                check(der)
                return der
        except (FormatError, VerificationError):
            continue
    return b""


def _folder(product: Product, kind: str) -> str:
    return f"snp/{product}/{kind.lower()}"
