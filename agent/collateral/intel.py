"""Intel's part: TCB info, QE identity, CRLs and their signers from the PCS or a PCCS, each verified by itself.

Statements are stored for what they say, also when they call the platform out of date or revoked: the appraisal comes
later, and by others. Source: Intel PCS API version 4; the judgement is tdx.certs', tdx.chain's and tdx.collateral's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from agent.collateral.keeper import Keeper, Life
from agent.core.errors import ChainInvalid, FormatError, TcbRejected, UntrustedRoot, VerificationError
from tdx import pcs
from tdx.certs import Certificate, Crl, load_certificate, load_crl, require_within
from tdx.chain import tcb_signers
from tdx.collateral import Period, load_qe_identity, load_tcb_info
from tdx.pcs import Authority, Update

MAX_CERTIFICATES = 64


class Intel:
    """``url`` is the PCS's or a PCCS's; ``root_crl`` the whole address of the root's CRL."""

    def __init__(self, keeper: Keeper, url: str, root_crl: str) -> None:
        self._keeper = keeper
        self._url = url
        self._root_crl = root_crl
        self._bag: dict[str, bytes] = {}

    def gather(self, families: Sequence[tuple[bytes, Update]], authorities: Sequence[Authority]) -> None:
        """TCB info of each FMSPC (6 bytes), QE identities, CRLs of these authorities and the root.

        The outcomes are the keeper's.
        """
        self._load_certificates()
        attempt = self._keeper.attempt
        for fmspc, update in families:
            name = f"tdx/tcb/{fmspc.hex()}-{update}/tcb_info.json"
            attempt(name, partial(self._tcb_info, name, fmspc, update))
        for update in dict.fromkeys(update for _, update in families):
            name = f"tdx/qe/{update}/qe_identity.json"
            attempt(name, partial(self._qe_identity, name, update))
        for ca in authorities:
            attempt(f"tdx/crl/{ca}.der", partial(self._pck_crl, f"tdx/crl/{ca}.der", ca))
        attempt("tdx/crl/root.der", partial(self._root, "tdx/crl/root.der"))

    def _tcb_info(self, name: str, fmspc: bytes, update: Update) -> None:
        def check(body: bytes) -> Life:
            info, _ = load_tcb_info(body, self._signers())
            if info.fmspc != fmspc:
                problem = f"TCB info is for FMSPC {info.fmspc.hex()}, {fmspc.hex()} was asked for"
                raise TcbRejected(problem, code="verify.tcb.platform")
            return self._life(info.period, "TCB info")

        fetch = self._ask(pcs.tcb_info_path(fmspc, update), pcs.TCB_CHAIN)
        self._keeper.keep(name, check, fetch, lasting=False)

    def _qe_identity(self, name: str, update: Update) -> None:
        def check(body: bytes) -> Life:
            return self._life(load_qe_identity(body, self._signers())[0].period, "QE identity")

        fetch = self._ask(pcs.qe_identity_path(update), pcs.QE_CHAIN)
        self._keeper.keep(name, check, fetch, lasting=False)

    def _pck_crl(self, name: str, ca: Authority) -> None:
        def check(der: bytes) -> Life:
            issuers = [one for one in self._believed(authority=True) if _is(one, ca)]
            return self._crl_life(load_crl(der), issuers)

        fetch = self._ask(pcs.pck_crl_path(ca), pcs.CRL_CHAIN)
        self._keeper.keep(name, check, lambda: pcs.crl_der(fetch()), lasting=False)

    def _root(self, name: str) -> None:
        def check(der: bytes) -> Life:
            return self._crl_life(load_crl(der), self._roots())

        def fetch() -> bytes:
            return pcs.crl_der(self._keeper.get(self._root_crl, pcs.MAX_ANSWER).body)

        self._keeper.keep(name, check, fetch, lasting=False)

    def _life(self, period: Period, what: str) -> Life:
        require_within(period.issued, period.next_update, self._keeper.at, what)
        return Life(period.issued, period.next_update)

    def _crl_life(self, crl: Crl, issuers: list[Certificate]) -> Life:
        for issuer in issuers:
            if issuer.subject == crl.issuer:
                crl.require_issued_by(issuer)
                crl.require_current(self._keeper.at)
                return Life(crl.this_update, crl.next_update)
        raise ChainInvalid("the CRL served is of none of the believed authorities", code="verify.chain.crl")

    def _ask(self, path: str, chain_headers: tuple[str, ...]) -> Callable[[], bytes]:
        """The request, for when it is needed. Its issuer chain is stored first, if it is to be believed."""

        def fetch() -> bytes:
            answer = self._keeper.get(self._url + path, pcs.MAX_ANSWER)
            self._add(pcs.issuer_chain(answer.headers, chain_headers))
            return answer.body

        return fetch

    def _add(self, chain: tuple[bytes, bytes]) -> None:
        issuer, root = (load_certificate(der, "certificate of the issuer chain") for der in chain)
        self._require_root(root)
        issuer.require_issued_by(root)
        issuer.require_valid(self._keeper.at)
        for certificate in (issuer, root):
            name = _name(certificate.der)
            if name in self._bag:
                self._keeper.cache.touch(name)
                continue
            if len(self._bag) >= MAX_CERTIFICATES:
                raise FormatError(f"more than {MAX_CERTIFICATES} certificates of Intel in the cache", record="cache")
            self._keeper.cache.write(name, certificate.der)
            self._bag[name] = certificate.der

    def _require_root(self, root: Certificate) -> None:
        if root.spki_sha256 not in {anchor.spki_sha256 for anchor in self._keeper.anchors}:
            raise UntrustedRoot(f"root of the chain served is not trusted: key SHA-256 {root.spki_sha256.hex()}")
        root.require_issued_by(root)
        root.require_role(authority=True)
        root.require_valid(self._keeper.at)

    def _load_certificates(self) -> None:
        """Those of the cache that are still what their names say; each is judged again when it is used."""
        for name in self._keeper.cache.names():
            if name.startswith("tdx/certs/") and (der := self._keeper.cache.read(name)) and name == _name(der):
                self._bag[name] = der

    def _parsed(self) -> list[Certificate]:
        found = []
        for der in self._bag.values():
            try:
                found.append(load_certificate(der, "certificate in the cache"))
            except VerificationError:
                continue
        return found

    def _roots(self) -> list[Certificate]:
        found = []
        for certificate in self._parsed():
            try:
                self._require_root(certificate)
            except VerificationError:
                continue
            found.append(certificate)
        return found

    def _believed(self, *, authority: bool) -> list[Certificate]:
        """Certificates that a root issued, in date, of this role."""
        found = []
        for root in self._roots():
            for certificate in self._parsed():
                try:
                    certificate.require_issued_by(root)
                    certificate.require_role(authority=authority)
                    certificate.require_valid(self._keeper.at)
                except VerificationError:
                    continue
                found.append(certificate)
        return found

    def _signers(self) -> tuple[Certificate, ...]:
        believed = [certificate.der for certificate in self._believed(authority=False)]
        for root in self._roots():
            return tcb_signers(believed, root)
        raise ChainInvalid("no root in the issuer chains is trusted")


def _name(der: bytes) -> str:
    return f"tdx/certs/{hashlib.sha256(der).hexdigest()}.der"


def _is(certificate: Certificate, ca: Authority) -> bool:
    try:
        return pcs.authority(certificate.subject) is ca
    except ChainInvalid:
        return False
