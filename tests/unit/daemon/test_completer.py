"""What a bundle carries beside the signature: the blob without padding, and what the folder has."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.core.errors import ConfigError
from agent.core.model import Evidence, Tee
from agent.daemon.completing import completer
from sim.keys import State
from sim.qe import DomainOptions, QuotingEnclave


def evidence(blob: bytes = b"report") -> Evidence:
    return Evidence(Tee.SNP, blob, b"", "sev_guest")


def der(index: int) -> bytes:
    """The outline of a CRL, which is all that sorting looks at."""
    body = bytes.fromhex("0201013000300017") + bytes([13]) + b"2601%02d000000Z" % index
    inner = b"\x30" + bytes([len(body)]) + body
    return b"\x30" + bytes([len(inner)]) + inner


def test_a_folder_that_is_missing_has_nothing(tmp_path: Path) -> None:
    blob, vendor = completer(tmp_path / "absent")(evidence())
    assert (blob, vendor.certificates, vendor.crls) == (b"report", (), ())


def test_the_folder_counts_at_every_quote_and_json_is_not_for_snp(tmp_path: Path) -> None:
    complete = completer(tmp_path)
    (tmp_path / "tcb.json").write_text('{"tcbInfo": {}}')
    assert complete(evidence())[1].crls == ()
    (tmp_path / "crl").write_bytes(der(1))
    vendor = complete(evidence())[1]
    assert (vendor.crls, vendor.tcb_info) == ((der(1),), b"")


def test_more_than_a_bundle_carries(tmp_path: Path) -> None:
    for index in range(33):
        (tmp_path / f"{index}").write_bytes(der(index))
    with pytest.raises(ConfigError, match="32"):
        completer(tmp_path)(evidence())


def test_a_quotes_padding_stays_behind(tmp_path: Path) -> None:
    enclave = QuotingEnclave(State(tmp_path / "state"), DomainOptions(), datetime.now(UTC))
    padded = enclave.report(bytes(64), 0).outblob
    blob, _ = completer(tmp_path / "absent")(Evidence(Tee.TDX, padded, b"", "tdx_guest"))
    assert padded.startswith(blob)
    assert set(padded[len(blob) :]) == {0}


def test_a_folder_that_can_not_be_looked_at_is_named(tmp_path: Path) -> None:
    """A loop of links stands for a folder that the signer's user may not search: root may search any."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(ConfigError, match=r"evidence\.endorsements: .*loop/folder"):
        completer(loop / "folder")(evidence())
