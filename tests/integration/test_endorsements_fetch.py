"""Fetching from the vendors' services: what is stored, what is refused, whom is asked how often. Real TLS, no waiting."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.collateral.cache import Cache
from agent.collateral.fetch import Fetcher, Services
from agent.collateral.keeper import Outcome
from agent.core.errors import FormatError, UsageError
from agent.core.model import Endorsements
from agent.deadline import Deadline
from agent.verify.endorsements import load_folder
from agent.verify.evidence import verify_vendor
from agent.verify.shelf import Shelf
from sim import pki_intel
from sim.export import Machine
from sim.psp import GuestOptions, HostTable
from sim.qe import DomainOptions, QuotingEnclave
from snp.words import Product
from tdx import pcs
from tests.support.clock import FakeClock
from tests.support.simulator import anchor, machine
from tests.support.vendor import Reply, Vendor, running_vendor

AT = datetime.now(UTC)


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    with running_vendor(tmp_path) as running:
        yield running


@dataclass
class Desk:
    """A cache, its fetcher and the clock that both live by."""

    machine: Machine
    vendor: Vendor
    folder: Path
    clock: FakeClock
    late: timedelta = timedelta()

    def now(self) -> datetime:
        return AT + self.late + timedelta(seconds=self.clock.now)

    def fetcher(self, **options: bool) -> Fetcher:
        services = Services(
            self.vendor.url,
            self.vendor.url,
            self.vendor.url + "/sgx/certification/v4/rootcacrl",
            authorities=self.vendor.authority,
        )
        return Fetcher(Cache(self.folder), services, [anchor(self.machine.root)], self.now, **options)

    def fetch(
        self, blob: bytes = b"", auxblob: bytes = b"", product: str = "", *, force: bool = False, early: bool = False
    ) -> dict[str, Outcome]:
        blob = blob or self.machine.report(bytes(64), 0).outblob
        deadline = Deadline(60, "test", self.clock)
        rows = self.fetcher(force=force, early=early).for_evidence(blob, auxblob, deadline, product)
        return {row.name.rpartition("/")[2]: row for row in rows}

    def actions(self, *, force: bool = False) -> set[str]:
        return {row.action for row in self.fetch(force=force).values()}


@pytest.fixture(params=["snp", "tdx"])
def desk(request: pytest.FixtureRequest, vendor: Vendor, pki_state: Path, tmp_path: Path) -> Desk:
    return made(request.param, vendor, pki_state, tmp_path)


def made(tee: str, vendor: Vendor, state: Path, tmp_path: Path, options: GuestOptions | None = None) -> Desk:
    hardware = machine(tee, state, options)
    serve(vendor, hardware)
    return Desk(hardware, vendor, tmp_path / "cache", FakeClock())


def serve(vendor: Vendor, hardware: Machine) -> None:
    getattr(vendor, "amd" if hardware.name == "sev_guest" else "intel")(hardware)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_what_is_fetched_is_enough_to_verify(desk: Desk) -> None:
    blob = desk.machine.report(bytes(64), 0).outblob
    assert {row.action for row in desk.fetch(blob).values()} == {"fetched"}
    for held in (load_folder(desk.folder), Shelf.load(desk.folder).select(blob)):
        verified = verify_vendor(blob, held, at=desk.now(), anchors=[anchor(desk.machine.root)])
        assert verified.revocation.startswith("as of")
        assert verified.tcb_status in ("UpToDate", "n/a")
    for path in [desk.folder, *desk.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_a_second_run_asks_nothing_and_a_later_one_what_may_change(desk: Desk) -> None:
    desk.fetch()
    before, asked = files(desk.folder), len(desk.vendor.requests)
    assert desk.actions() == {"fresh"}
    assert len(desk.vendor.requests) == asked
    desk.late = timedelta(hours=21)
    assert {row.action for name, row in desk.fetch().items() if "crl" in name or name.endswith("json")} == {"fetched"}
    assert not [path for path in desk.vendor.requests[asked:] if "cert_chain" in path or "SPL=" in path]
    assert files(desk.folder) == before


def test_force_asks_again(desk: Desk) -> None:
    desk.fetch()
    assert "fetched" in desk.actions(force=True)


def test_a_service_that_is_away_leaves_what_is_there(desk: Desk) -> None:
    desk.fetch()
    desk.late = timedelta(hours=21)
    for path in list(desk.vendor.replies):
        desk.vendor.replies[path] = Reply(status=404)
    assert desk.actions() == {"fresh", "kept"} - ({"fresh"} if desk.machine.name == "tdx_guest" else set())
    # Past its end it is not good any more.
    desk.late = timedelta(days=31)
    assert "missing" in desk.actions()


@pytest.mark.parametrize("kind", ["garbage", "cut", "oversize", "gone", "compressed"])
def test_poisoned_answers_are_never_stored(desk: Desk, kind: str) -> None:
    desk.vendor.fault("/", kind, count=100)
    assert desk.actions() == {"missing"}
    assert files(desk.folder) == {}
    desk.vendor.faults.clear()
    assert desk.actions() == {"fetched"}


def test_one_flipped_bit_anywhere_is_not_stored(desk: Desk) -> None:
    for path, reply in list(desk.vendor.replies.items()):
        body = bytearray(reply.body)
        body[len(body) // 2] ^= 1
        desk.vendor.replies[path] = replace(reply, body=bytes(body))
    assert desk.actions() == {"missing"}
    # Intel's issuers came whole, in headers.
    assert not [name for name in files(desk.folder) if not name.startswith("tdx/certs/")]


def test_another_root_s_statements_are_not_stored(desk: Desk, tmp_path: Path) -> None:
    stranger = machine("tdx" if desk.machine.name == "tdx_guest" else "snp", tmp_path / "stranger")
    serve(desk.vendor, stranger)
    assert {row.code for row in desk.fetch().values()} <= {"verify.untrusted-root", "verify.chain", "verify.chain.crl"}
    assert files(desk.folder) == {}


def test_a_corrupted_entry_is_fetched_again(desk: Desk) -> None:
    desk.fetch()
    good = files(desk.folder)
    for name, content in good.items():
        path = desk.folder / name
        path.write_bytes(content[: len(content) // 2])
        desk.fetch()
        assert files(desk.folder) == good, name
        path.unlink()
        path.symlink_to("/etc/passwd")
        desk.fetch()
        assert files(desk.folder) == good, name
        assert not path.is_symlink()


def test_an_older_statement_does_not_replace_a_newer_one(desk: Desk, pki_state: Path) -> None:
    desk.fetch()
    good = files(desk.folder)
    then = timedelta(days=5)
    if desk.machine.name == "sev_guest":
        serve(desk.vendor, machine("snp", pki_state, GuestOptions(crl_age=then)))
    else:
        serve(desk.vendor, machine("tdx", pki_state, DomainOptions(collateral_age=then)))
    rows = desk.fetch(force=True)
    assert {row.code for row in rows.values() if row.action == "kept"} == {"verify.rollback"}
    assert files(desk.folder) == good


def test_a_crl_that_revokes_is_stored(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path, GuestOptions(issuer_revoked=True))
    assert desk.actions() == {"fetched"}


def test_the_wrong_chip_s_certificate_is_not_stored(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path)
    other = machine("snp", pki_state, GuestOptions(tcb_steps={"certified": 1}))
    vendor.change("SPL=", Reply(other.certificates()["vcek"]))
    rows = desk.fetch()
    assert [row.code for row in rows.values() if row.action == "missing"] == ["verify.chain.leaf"]
    assert "chip" not in "".join(files(desk.folder))


def test_another_family_s_tcb_info_is_not_stored(
    vendor: Vendor, pki_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = made("tdx", vendor, pki_state, tmp_path)
    info = desk.machine.tcb_info if isinstance(desk.machine, QuotingEnclave) else b""
    vendor.change("fmspc", Reply(info.replace(b"53494D", b"53494E")))
    assert desk.fetch()["tcb_info.json"].code == "verify.signature"
    monkeypatch.setattr(pki_intel, "FMSPC", b"other!")
    serve(vendor, machine("tdx", pki_state))
    vendor.change("fmspc", vendor.replies[pcs.tcb_info_path(b"other!")])
    assert desk.fetch()["tcb_info.json"].code == "verify.tcb.platform"


@pytest.mark.parametrize("product", list(Product))
def test_every_product(product: Product, vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path, GuestOptions(version=5, product=product))
    assert desk.actions() == {"fetched"}
    size = 16 if product is Product.TURIN else 128
    assert [len(path.parent.name) for path in desk.folder.glob("snp/*/vcek/*/*.der")] == [size]


def test_a_version_2_report_needs_its_product_named(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path, GuestOptions(version=2, product=Product.MILAN))
    with pytest.raises(FormatError, match="version 2"):
        desk.fetch()
    assert {row.action for row in desk.fetch(product="Milan").values()} == {"fetched"}


def test_a_hidden_chip_can_t_be_asked_for(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path)
    hidden = machine("snp", pki_state, GuestOptions(mask_chip_id=True))
    with pytest.raises(FormatError, match="CHIP_ID"):
        desk.fetch(hidden.report(bytes(64), 0).outblob)


def test_a_vlek_comes_from_the_provider(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path, GuestOptions(signing_key="VLEK"))
    assert sorted(desk.fetch()) == ["chain.pem", "crl.der"]
    made_ = desk.machine.report(bytes(64), 0)
    held = load_folder(desk.folder).merged(Endorsements((desk.machine.certificates()["vlek"],)))
    verify_vendor(made_.outblob, held, at=desk.now(), anchors=[anchor(desk.machine.root)])


def test_what_nobody_signed_is_not_kept(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path)
    path = next(path for path in vendor.replies if "cert_chain" in path)
    vendor.replies[path] = Reply(b"buy our honey\n" + vendor.replies[path].body + b"thank you\n")
    assert desk.actions() == {"fetched"}
    assert b"honey" not in b"".join(files(desk.folder).values())


def test_what_the_host_gave_need_not_be_asked_for(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("snp", vendor, pki_state, tmp_path)
    given = desk.machine.report(bytes(64), 0)
    assert {row.action for row in desk.fetch(given.outblob, given.auxblob).values()} == {"fetched"}
    assert not [path for path in vendor.requests if "SPL=" in path]
    wrong = machine("snp", pki_state, GuestOptions(table=HostTable(contents={"LEAF": "issuer"})))
    for path in desk.folder.glob("snp/*/vcek/*/*.der"):
        path.unlink()
    desk.fetch(given.outblob, wrong.report(bytes(64), 0).auxblob)
    assert [path for path in vendor.requests if "SPL=" in path]


def test_early_statements_stand_beside_the_standard_ones(vendor: Vendor, pki_state: Path, tmp_path: Path) -> None:
    desk = made("tdx", vendor, pki_state, tmp_path)
    assert isinstance(desk.machine, QuotingEnclave)
    desk.vendor.intel(desk.machine, early=True)
    desk.fetch(early=True)
    assert len([name for name in files(desk.folder) if "early" in name]) == 2


def test_renewal_needs_no_evidence(desk: Desk) -> None:
    desk.fetch()
    desk.late = timedelta(hours=21)
    rows = desk.fetcher().renew(Deadline(60, "test", desk.clock))
    assert {row.action for row in rows} <= {"fetched", "fresh"}
    assert "fetched" in {row.action for row in rows}
    assert (
        Desk(desk.machine, desk.vendor, desk.folder.with_name("empty"), desk.clock)
        .fetcher()
        .renew(Deadline(60, "test", desk.clock))
        == ()
    )


def test_a_full_folder_takes_nothing_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.collateral.cache.MAX_FILES", 2)
    assert "prune" not in desk.actions()
    assert len(list(Cache(desk.folder).names())) == 2


def test_a_folder_that_is_a_file_is_said(desk: Desk) -> None:
    desk.folder.write_text("no folder")
    with pytest.raises(UsageError):
        desk.fetch()
