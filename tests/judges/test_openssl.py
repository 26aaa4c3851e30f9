"""OpenSSL judges AMD's chain and the report's signature: ``openssl verify`` and ``openssl dgst`` say what snp.verify says.

OpenSSL knows signatures, dates, authority and CRLs; it knows nothing of CHIP_ID, TCB or the report's own form. Where it
accepts what we refuse, the reason is listed. It must never refuse what we accept.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements, TrustAnchor
from agent.verify.endorsements import certificates_in_pem
from sim import quirks
from sim.keys import State, pem_of
from sim.psp import GuestOptions, SecureProcessor
from snp import abi, certs
from snp.verify import verify
from snp.words import Product
from tests.support import tools, vectors

NOW = datetime.now(UTC)
MALFORMED = {"neg-trailing-garbage", "neg-truncated", "neg-unknown-version"}
NOT_ITS_BUSINESS = {"masked-chip", "tcb-behind-certificate", "tcb-ahead-of-certificate"}
"""Quirks of the simulator with good signatures: the leaf is another chip's or TCB's, which OpenSSL can't see."""
CASES = [
    case
    for case in vectors.cases("snp")
    if case.id == "absent" or (case.id not in MALFORMED and (Path(str(case.values[0])) / "crl.der").is_file())
]
FORGED = [case for case in vectors.cases("snp") if case.id in {"neg-fake-root", "absent"}]


_chains: dict[tuple[bytes | datetime, ...], str] = {}
"""What OpenSSL said of chains: a report is judged by its signature alone where the chain is known."""


@dataclass(frozen=True)
class Case:
    """A report with its certificates and CRL, as DER; the root is the one to trust. ``folder`` is for files."""

    report: bytes
    leaf: bytes
    issuer: bytes
    root: bytes
    crl: bytes
    at: datetime
    folder: Path

    def ours(self) -> bool:
        try:
            anchor = TrustAnchor("judged", _pinned(self.root))
            bag = Endorsements((self.leaf, self.issuer, self.root), (self.crl,) if self.crl else ())
            verify(self.report, bag, [anchor], self.at)
        except TeeAgentError:
            return False
        return True

    def theirs(self) -> bool:
        """Chain, issuer against the CRL (AMD has none for leaves), signature over the report's first part."""
        key = (self.leaf, self.issuer, self.root, self.crl, self.at)
        if key not in _chains:
            _chains[key] = self._chain()
        if not _chains[key]:
            return False
        self._file("key.pem").write_text(_chains[key])
        self._file("signature").write_bytes(abi.ReportV2(self.report).signature_der())
        self._file("signed").write_bytes(self.report[: abi.SIGNED_SIZE])
        return self._openssl("dgst", "-sha384", "-verify", "key.pem", "-signature", "signature", "signed")

    def _chain(self) -> str:
        """The leaf's key in PEM where its chain holds, "" where it doesn't."""
        for name, der in (("leaf", self.leaf), ("issuer", self.issuer), ("root", self.root)):
            self._file(f"{name}.pem").write_bytes(pem_of(der))
        trust = ["-CAfile", "root.pem", "-check_ss_sig", "-attime", str(int(self.at.timestamp()))]
        chain = ["verify", *trust, "-untrusted", "issuer.pem", "leaf.pem"]
        if not self._openssl(*chain) or (self.crl and not self._unrevoked(trust)):
            return ""
        written = self._openssl("x509", "-in", "leaf.pem", "-pubkey", "-noout", "-out", "key.pem")
        return self._file("key.pem").read_text() if written else ""

    def _unrevoked(self, trust: Sequence[str]) -> bool:
        text = base64.encodebytes(self.crl).decode()
        self._file("crl.pem").write_text(f"-----BEGIN X509 CRL-----\n{text}-----END X509 CRL-----\n")
        return self._openssl("verify", *trust, "-crl_check", "-CRLfile", "crl.pem", "issuer.pem")

    def _file(self, name: str) -> Path:
        return self.folder / name

    def _openssl(self, *words: str) -> bool:
        return tools.status(tools.need("openssl"), *words, folder=self.folder) == 0


def _pinned(root: bytes) -> bytes:
    return certs.parse_certificate(root).spki_sha256


@functools.cache
def _genuine(folder: Path) -> dict[str, bytes]:
    leaf = next(path for path in (folder / "vcek.pem", folder / "vlek.pem") if path.is_file())
    files = {"leaf": leaf, "issuer": folder / "ask.pem", "root": folder / "ark.pem"}
    found = {name: certificates_in_pem(path.read_bytes(), name)[0] for name, path in files.items()}
    crl = folder / "crl.der"
    return {**found, "report": (folder / "report.bin").read_bytes(), "crl": crl.read_bytes() if crl.is_file() else b""}


def genuine(folder: Path, work: Path) -> Case:
    """A vector, at its time."""
    return Case(**_genuine(folder), at=datetime.fromisoformat(vectors.meta(folder)["verify_at"]), folder=work)


def simulated(state: Path, work: Path, *names: str, **options: Any) -> Case:
    """A report of the simulator, now."""
    chip = SecureProcessor(State(state), quirks.with_quirks(GuestOptions(**options), names), NOW)
    root, issuer, leaf = chip.certificates().values()
    report = chip.report(bytes(range(64)), 0).outblob
    return Case(report, leaf, issuer, root, chip.crls()["ark"], NOW, work)


@pytest.mark.parametrize("folder", CASES)
def test_genuine_reports(folder: Path, tmp_path: Path) -> None:
    case = genuine(folder, tmp_path)
    assert case.ours() is case.theirs() is vectors.meta(folder)["signature_valid"]


@pytest.mark.parametrize("folder", FORGED)
def test_a_forged_hierarchy_is_sound_in_itself(folder: Path, tmp_path: Path) -> None:
    case = genuine(folder, tmp_path)
    assert case.ours() is case.theirs() is True
    amds = certificates_in_pem((vectors.ROOT / "roots" / "amd-ark-milan.pem").read_bytes(), "ark")[0]
    assert replace(case, root=amds).ours() is replace(case, root=amds).theirs() is False


@pytest.mark.parametrize("quirk", ["", *(name for name in quirks.SNP if not name.startswith("table-"))])
def test_simulated_reports(quirk: str, pki_state: Path, tmp_path: Path) -> None:
    case = simulated(pki_state, tmp_path, *filter(None, [quirk]))
    if quirk in NOT_ITS_BUSINESS:
        assert (case.ours(), case.theirs()) == (False, True)
    else:
        assert case.ours() is case.theirs()
    refused = {"expired-crl", "future-crl", "issuer-revoked", "masked-key", *NOT_ITS_BUSINESS}
    assert case.ours() is (quirk not in refused)


@pytest.mark.parametrize("product", Product)
def test_simulated_products(product: Product, pki_state: Path, tmp_path: Path) -> None:
    for names in ((), ("vlek-masked-chip",)):
        case = simulated(pki_state, tmp_path, *names, product=product, version=5)
        assert case.ours() is case.theirs() is True
        later = replace(case, at=NOW.replace(year=NOW.year + 20))
        assert later.ours() is later.theirs() is False


def flipped(case: Case, part: str, step: int, allowed: Callable[[int], bool] = lambda _: False) -> list[int]:
    """Bits of ``part`` whose flip is not judged alike; where ``allowed`` says so for a byte, we may be stricter."""
    original: bytes = getattr(case, part)
    differ = []
    for bit in range(3, 8 * len(original), step):
        changed = bytearray(original)
        changed[bit // 8] ^= 1 << bit % 8
        spoilt: dict[str, Any] = {part: bytes(changed)}
        one = replace(case, **spoilt)
        try:
            ours, theirs = one.ours(), one.theirs()
        except TeeAgentError:
            continue  # not even a report or a certificate
        if ours is not theirs and (ours or not allowed(bit // 8)):
            differ.append(bit)
    return differ


def outside_the_signature(at: int) -> bool:
    """Reserved bytes behind the signature, which must be zero here and mean nothing to OpenSSL."""
    return at >= 0x2A0


MUTATED = [case for case in CASES if case.id in {"turin-v5-vcek", "milan-v3-vlek-aws", "absent"}]


@pytest.mark.parametrize("folder", MUTATED)
def test_mutated_genuine_reports(folder: Path, tmp_path: Path) -> None:
    case = genuine(folder, tmp_path)
    assert flipped(case, "report", 149, outside_the_signature) == []
    for part in ("leaf", "issuer", "root", "crl"):
        assert flipped(case, part, 661) == [], part


@pytest.mark.parametrize("names", [(), ("vlek",)])
def test_mutated_simulated_reports(names: tuple[str, ...], pki_state: Path, tmp_path: Path) -> None:
    case = simulated(pki_state, tmp_path, *names)
    assert flipped(case, "report", 149, outside_the_signature) == []
    for part in ("leaf", "issuer", "root", "crl"):
        assert flipped(case, part, 443) == [], part
