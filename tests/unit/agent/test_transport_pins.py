"""Pins, decided on certificates alone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.core.config import Pin
from agent.core.errors import ConfigError, TlsError
from agent.transport.pins import check_times, leaf_is_pinned, pinned_authorities, spki_sha256
from tests.support.certificates import NOW, ca_pin, make, spki_pin

ROOT = make("root", authority=True)
OTHER = make("other", authority=True)
DER = ROOT.certificate.public_bytes(Encoding.DER)


def test_the_digest_is_of_the_public_key() -> None:
    assert spki_sha256(ROOT.certificate) == ROOT.digest
    assert spki_sha256(make("root", ROOT).certificate) != ROOT.digest


def test_leaf() -> None:
    assert leaf_is_pinned(DER, [spki_pin(OTHER), spki_pin(ROOT)])
    assert not leaf_is_pinned(DER, [spki_pin(OTHER)])
    assert not leaf_is_pinned(DER, [ca_pin(ROOT)])
    assert not leaf_is_pinned(DER, [])


@pytest.mark.parametrize("der", [None, b"", b"\0", DER[:-1], DER[:40]], ids=["none", "empty", "zero", "cut", "head"])
def test_leaves_that_cannot_be_read(der: bytes | None) -> None:
    with pytest.raises(TlsError) as caught:
        leaf_is_pinned(der, [spki_pin(ROOT)])
    assert caught.value.code == "transport.tls.pin"


def test_authorities() -> None:
    pem = OTHER.pem() + ROOT.pem()
    assert pinned_authorities(pem, [ca_pin(ROOT)]) == [DER]
    assert len(pinned_authorities(pem, [ca_pin(ROOT), ca_pin(OTHER)])) == 2


@pytest.mark.parametrize("pem", [b"", b"no pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_authority_files_that_are_none(pem: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        pinned_authorities(pem, [ca_pin(ROOT)])
    assert caught.value.exit_status == 78


def test_an_spki_pin_makes_no_authority() -> None:
    with pytest.raises(ConfigError):
        pinned_authorities(ROOT.pem(), [Pin("spki", ROOT.digest)])


def test_times_at_the_edges() -> None:
    begins, ends = ROOT.certificate.not_valid_before_utc, ROOT.certificate.not_valid_after_utc
    check_times([DER], begins)
    check_times([DER], ends)
    for at in (begins - timedelta(seconds=1), ends + timedelta(seconds=1)):
        with pytest.raises(TlsError) as caught:
            check_times([OTHER.certificate.public_bytes(Encoding.DER), DER], at)
        assert caught.value.code == "transport.tls.validity"
    check_times([], NOW)
