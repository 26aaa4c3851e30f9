"""Endorsements from a folder: sorted by content, bounded, exact."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import FormatError, Oversized, UsageError
from agent.core.model import Endorsements
from agent.verify import endorsements as module
from agent.verify.endorsements import certificates_in_pem, der_kind, load_folder
from agent.verify.files import chunks, read_file
from sim.export import export
from sim.keys import pem_of
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


def as_sets(found: Endorsements) -> tuple[set[bytes], set[bytes], bytes, bytes]:
    return set(found.certificates), set(found.crls), found.tcb_info, found.qe_identity


@pytest.mark.parametrize("tee", ["snp", "tdx"])
def test_what_the_simulator_exports(tee: str, pki_state: Path, tmp_path: Path) -> None:
    made = machine(tee, pki_state)
    export(made, tmp_path)
    assert as_sets(load_folder(tmp_path)) == as_sets(made.endorsements())


def test_any_names_any_depth_either_encoding(pki_state: Path, tmp_path: Path) -> None:
    wanted = machine("tdx", pki_state).endorsements()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "bundle.txt").write_bytes(b"note\n" + b"".join(pem_of(der) for der in wanted.certificates[:2]))
    for index, der in enumerate(wanted.certificates[2:]):
        (deep / f"c{index}").write_bytes(der)
    for index, der in enumerate(wanted.crls):
        (deep / f"{index}.crt").write_bytes(der)
    (deep / "one.bin").write_bytes(wanted.tcb_info)
    (deep / "two").write_bytes(wanted.qe_identity)
    (tmp_path / "meta.json").write_text('{"other": 1}')
    (tmp_path / "report.bin").write_bytes(bytes(1184))
    (tmp_path / "broken.json").write_text('{"tcbInfo":')
    (tmp_path / "key.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    assert as_sets(load_folder(tmp_path)) == as_sets(wanted)


def test_an_empty_folder_is_empty_and_a_missing_one_an_error(tmp_path: Path) -> None:
    assert load_folder(tmp_path) == Endorsements()
    with pytest.raises(UsageError):
        load_folder(tmp_path / "absent")


def test_two_statements_of_one_kind_are_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"tcbInfo":{"fmspc":"1"}}')
    (tmp_path / "b.json").write_text('{"tcbInfo":{"fmspc":"1"}}')
    load_folder(tmp_path)
    (tmp_path / "b.json").write_text('{"tcbInfo":{"fmspc":"2"}}')
    with pytest.raises(FormatError, match="tcbInfo"):
        load_folder(tmp_path)


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE", 100)
    monkeypatch.setattr(module, "BOUNDS", module.Bounds(files=3, total=400))
    (tmp_path / "a").write_bytes(bytes(101))
    with pytest.raises(Oversized):
        load_folder(tmp_path)
    (tmp_path / "a").write_bytes(bytes(100))
    for name in "bcd":
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(Oversized):
        load_folder(tmp_path)
    deep = tmp_path.joinpath(*["x"] * 9)
    deep.mkdir(parents=True)
    for name in "abcd":
        (tmp_path / name).unlink()
    with pytest.raises(Oversized, match="deep"):
        load_folder(tmp_path)


def test_pem_is_strict() -> None:
    for body in ("AAA", "A*==", "AA==AA=="):
        with pytest.raises(FormatError):
            certificates_in_pem(f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n".encode(), "x")
    assert certificates_in_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END X509 CRL-----\n", "x") == []


def test_der_by_structure(pki_state: Path) -> None:
    found = machine("snp", pki_state).endorsements()
    assert {der_kind(der) for der in found.certificates} == {"certificate"}
    assert {der_kind(der) for der in found.crls} == {"crl"}
    for data in (b"", b"\x30", b"\x30\x03\x02\x01\x00", found.crls[0][:-1], found.crls[0] + b"\0"):
        assert der_kind(data) == ""


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"12345")
    assert read_file(str(file), 5) == b"12345"
    assert b"".join(chunks(str(file))) == b"12345"
    with pytest.raises(Oversized):
        read_file(str(file), 4)
    for name in (str(tmp_path), str(tmp_path / "absent"), "/dev/zero"):
        with pytest.raises(UsageError):
            read_file(name, 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert read_file("-", 5) == b"piped"
