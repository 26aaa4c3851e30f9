"""One statement at a time with a broken signature, all others good: that one is not stored, the others are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.collateral.cache import Cache
from agent.collateral.fetch import Fetcher, Services
from agent.deadline import Deadline
from sim.psp import SecureProcessor
from sim.qe import QuotingEnclave
from snp import kds
from tdx import pcs
from tests.support.clock import FakeClock
from tests.support.simulator import anchor, machine
from tests.support.vendor import Vendor, running_vendor

AT = datetime.now(UTC)


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running_vendor(tmp_path) as running:
        yield running


def flipped(data: bytes, at: int = -1) -> bytes:
    broken = bytearray(data)
    broken[at] ^= 1
    return bytes(broken)


def forged(path: str, body: bytes) -> bytes:
    """The same statement with the last bit of its signature changed, in a form that is as good as before."""
    if "cert_chain" in path:
        issuer, root = kds.parse_chain(body)
        return kds.chain_pem(flipped(issuer), root)
    if body[:1] == b"{":
        return body[:-3] + (b"0" if body[-3:-2] != b"0" else b"1") + body[-2:]
    if path == pcs.ROOT_CRL_PATH:
        return flipped(bytes.fromhex(body.decode())).hex().encode()
    return flipped(body)


def stored(vendor: Vendor, hardware: SecureProcessor | QuotingEnclave, folder: Path) -> dict[str, str]:
    """Digests of what one run stored, by name."""
    services = Services(vendor.url, vendor.url, vendor.url + pcs.ROOT_CRL_PATH, authorities=vendor.authority)
    fetcher = Fetcher(Cache(folder), services, [anchor(hardware.root)], lambda: AT)
    fetcher.for_evidence(hardware.report(bytes(64), 0).outblob, b"", Deadline(60, "test", FakeClock()))
    cache = Cache(folder)
    return {name: hashlib.sha256(cache.read(name) or b"").hexdigest() for name in cache.names()}


PARTS = {
    "snp": {"cert_chain": "chain.pem", "/crl": "crl.der", "SPL=": "vcek/"},
    "tdx": {"/tcb?": "tcb_info", "/qe/": "qe_identity", "pckcrl": "crl/platform", "rootcacrl": "crl/root"},
}


@pytest.mark.parametrize(("tee", "part"), [(tee, part) for tee, parts in PARTS.items() for part in parts])
def test_only_the_forged_one_is_missing(tee: str, part: str, vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    hardware = machine(tee, pki_state)
    if isinstance(hardware, SecureProcessor):
        vendor.amd(hardware)
    else:
        vendor.intel(hardware)
    good = stored(vendor, hardware, tmp_path / "good")
    (path,) = (path for path in vendor.replies if part in path)
    vendor.replies[path] = replace(vendor.replies[path], body=forged(path, vendor.replies[path].body))
    found = stored(vendor, hardware, tmp_path / "forged")
    missing = set(good) - set(found)
    assert found.items() <= good.items()
    if part == "cert_chain":
        assert missing == set(good), "nothing stands without the authorities"
    elif part == "SPL=":
        assert [name for name in missing if name.count("/") == 4] == list(missing)
        assert missing
    else:
        assert len(missing) == 1
        assert PARTS[tee][part] in missing.pop()
