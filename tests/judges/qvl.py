"""dcap-qvl (Phala, Rust) as a judge: what it says of a quote and its collateral, beside what we say.

Its API wants the inner JSON and the signature apart, certificates as PEM chains, the time in seconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dcap_qvl
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements, TrustAnchor
from agent.verify.endorsements import certificates_in_pem
from sim.keys import pem_of
from sim.qe import QuotingEnclave
from tdx.roots import GENUINE
from tdx.verify import verify
from tests.support import vectors
from tests.support.simulator import anchor

REFUSED = "refused"


@dataclass(frozen=True)
class Case:
    """A quote with all that both verifiers want; certificates and CRLs are DER. ``root`` None is Intel's."""

    quote: bytes
    at: datetime
    tcb_info: bytes
    qe_identity: bytes
    signer: bytes
    platform_ca: bytes
    root_ca: bytes
    root_crl: bytes
    pck_crl: bytes
    root: bytes | None = None
    anchors: tuple[TrustAnchor, ...] = GENUINE

    def ours(self) -> str:
        """Our TCB status and advisories, or the code of our refusal."""
        certificates = (self.signer, self.platform_ca, self.root_ca)
        bag = Endorsements(certificates, (self.root_crl, self.pck_crl), self.tcb_info, self.qe_identity)
        try:
            verified = verify(self.quote, bag, self.anchors, self.at)
            return verdict(verified.tcb_status, verified.advisories)
        except TeeAgentError as error:
            return f"{REFUSED}: {error.code}"

    def theirs(self) -> str:
        """dcap-qvl's TCB status and advisories, or what it refuses with."""
        info, identity = _parts("tcbInfo", self.tcb_info), _parts("enclaveIdentity", self.qe_identity)
        if not info or not identity:
            return f"{REFUSED}: not as Intel serves it"
        signers, authorities = _pem(self.signer, self.root_ca), _pem(self.platform_ca, self.root_ca)
        seconds = int(self.at.timestamp())
        try:
            collateral = dcap_qvl.QuoteCollateralV3(
                authorities, self.root_crl, self.pck_crl, signers, *info, signers, *identity
            )
            if self.root is None:
                verified = dcap_qvl.verify(self.quote, collateral, seconds)
            else:
                verified = dcap_qvl.verify_with_root_ca(self.quote, collateral, self.root, seconds)
            return verdict(verified.status, verified.advisory_ids)
        except (ValueError, UnicodeDecodeError) as error:
            return f"{REFUSED}: {error}"

    def disagreement(self) -> str:
        """ "" where both refuse or both say the same."""
        ours, theirs = self.ours(), self.theirs()
        both_refuse = ours.startswith(REFUSED) and theirs.startswith(REFUSED)
        return "" if ours == theirs or both_refuse else f"we say {ours}, dcap-qvl says {theirs}"


def verdict(status: str, advisories: Iterable[str]) -> str:
    """Both in one line."""
    return " ".join([status, *sorted(advisories)])


def mutated(case: Case, part: str, bits: Sequence[int]) -> dict[int, str]:
    """Disagreements over ``case`` with one bit of ``part`` flipped, by bit."""
    original: bytes = getattr(case, part)
    found = {}
    for bit in bits:
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        spoilt: dict[str, Any] = {part: bytes(changed)}
        if problem := replace(case, **spoilt).disagreement():
            found[bit] = problem
    return found


@functools.cache
def genuine(folder: Path) -> Case:
    """A vector that has collateral."""
    given = folder / "collateral"
    signer, root = certificates_in_pem((given / "tcb_info_issuer_chain.pem").read_bytes(), "chain")
    platform_ca, _ = certificates_in_pem((given / "pck_crl_issuer_chain.pem").read_bytes(), "chain")
    return Case(
        quote=(folder / "quote.bin").read_bytes(),
        at=datetime.fromisoformat(vectors.meta(folder)["verify_at"]),
        tcb_info=(given / "tcb_info.json").read_bytes(),
        qe_identity=(given / "qe_identity.json").read_bytes(),
        signer=signer,
        platform_ca=platform_ca,
        root_ca=root,
        root_crl=(given / "root_ca_crl.der").read_bytes(),
        pck_crl=(given / "pck_crl.der").read_bytes(),
    )


def simulated(domain: QuotingEnclave, at: datetime) -> Case:
    """A quote of the simulator, judged under its root."""
    made, crls = domain.certificates(), domain.crls()
    return Case(
        quote=domain.report(bytes(64)).outblob,
        at=at,
        tcb_info=domain.tcb_info,
        qe_identity=domain.qe_identity,
        signer=made["tcb-signing"],
        platform_ca=made["pck-platform-ca"],
        root_ca=made["root-ca"],
        root_crl=crls["root-ca"],
        pck_crl=crls["pck-platform-ca"],
        root=domain.root.public_bytes(Encoding.DER),
        anchors=(anchor(domain.root),),
    )


def _parts(name: str, body: bytes) -> tuple[str, bytes] | None:
    """Inner object and signature; None for what a client of Intel's service would not take either."""
    match = re.fullmatch(rb'\{"%s":(\{.*\}),"signature":"([0-9a-f]*)"\}' % name.encode(), body, re.DOTALL)
    try:
        return (match[1].decode(), bytes.fromhex(match[2].decode())) if match else None
    except ValueError:
        return None


def _pem(*ders: bytes) -> str:
    return b"".join(map(pem_of, ders)).decode()
