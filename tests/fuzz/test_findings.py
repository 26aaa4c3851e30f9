"""What fuzzing, and reading with a fuzzer's eyes, found: one test each, named by the defect."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cryptography import x509

from agent.admin import server
from agent.core import canonical, config, der
from agent.core import x509 as form
from agent.core.errors import (
    ConfigError,
    FirmwareBusy,
    FormatError,
    HeaderRefused,
    ServerError,
    TlsError,
    TransportError,
)
from agent.daemon import problem
from agent.disk import metadata
from agent.transport import pins
from agent.verify import endorsements
from snp.certs import PROFILE
from tas import wrap
from tests.fuzz.contract import Target, hold
from tests.fuzz.targets import TARGETS
from tests.unit.tdx import world
from tests.unit.tdx.world import tlv

_HUGE = "0x" + "f" * 5000
"""An integer that TOML takes and that Python refuses to write in decimal."""


def test_an_identifier_of_kilobytes_is_not_spelled_out() -> None:
    # Was a ValueError (more than 4300 digits), and in a CRL of 4 MiB hours of quadratic work.
    assert der.dotted(b"\x81" * 15000 + b"\x01") == "?"
    assert der.dotted(bytes.fromhex("2a864886f84d010d01")) == "1.2.840.113741.1.13.1"


def test_a_critical_extension_with_such_a_name_is_a_format_error() -> None:
    extension = tlv(0x30, tlv(6, b"\x81" * 2000 + b"\x01") + tlv(1, b"\xff") + tlv(4, b""))
    algorithm, name = min(PROFILE.algorithms), tlv(0x30, b"")
    validity = tlv(0x30, tlv(0x17, b"260101000000Z") * 2)
    body = bytes.fromhex("a003020102") + tlv(2, b"\1") + algorithm + name + validity + name + name
    body = tlv(0x30, body + tlv(0xA3, tlv(0x30, extension)))
    with pytest.raises(FormatError, match=r"extension \? is critical"):
        form.Certificate.parse(tlv(0x30, body + algorithm + tlv(3, b"\0\0")), PROFILE)


@pytest.mark.parametrize("number", ["Infinity", "1e999", "NaN", "-1", "1" * 400])
def test_numbers_of_another_process_that_are_none(number: str) -> None:
    # Were OverflowErrors.
    busy = problem.exception(json.loads(f'{{"code": "firmware.busy", "errno": {number}, "status": {number}}}'))
    assert isinstance(busy, FirmwareBusy)
    assert (busy.errno, busy.status) == (0, 0)
    server = problem.exception(json.loads(f'{{"code": "server", "retry_after": {number}}}'))
    assert isinstance(server, ServerError)
    assert server.retry_after == 0


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "9" * 5000,
        f"[boot]\nprompt_seconds = {_HUGE}",
        f"[daemon]\nkey_lifetime_seconds = {_HUGE}",
        '"\\u001b[2J" = 1',
        f"{'a' * 5000} = 1",
        f"{'a.' * 900}b = 1\n{'a.' * 900}b = 2",
    ],
    ids=["decimal", "seconds", "integer", "control characters", "long key", "long key twice"],
)
def test_configuration_that_can_not_be_quoted(text: str) -> None:
    # Were a ValueError, an OverflowError, and messages with the key as it stood there.
    with pytest.raises(ConfigError):
        config.parse(text, "tee-agent.toml")
    hold(Target(lambda data: config.parse(data.decode(), "tee-agent.toml"), lambda _: []), text.encode())


def test_pem_without_ends_costs_no_more_than_its_length() -> None:
    # Took 40 s for 256 KiB, four times that for twice the size.
    many = b"-----BEGIN CERTIFICATE-----\n" * 40000
    assert list(endorsements.sort(many[: endorsements.MAX_FILE], "file")) == []
    end = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert list(endorsements.sort(b"-----BEGIN CERTIFICATE-----\n" + end, "file")) == [("certificate", b"\0\0\0")]


def test_a_wrapping_key_that_nothing_can_be_encrypted_for() -> None:
    # Was a ValueError after the evidence was found good: the service answered 500.
    key = tlv(0x30, tlv(2, b"\0" + b"\xf0" * 256) + tlv(2, b"\1\0\1"))
    with pytest.raises(FormatError, match="even"):
        wrap.load_key(key)


@pytest.mark.parametrize("version", [1, 3, 200])
def test_a_server_certificate_of_no_version(version: int) -> None:
    # InvalidVersion is no ValueError: it left the transport, and early boot, untyped.
    der = world.Cert("server", "server", authority=True, serial=1).der()
    bad = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a0030201") + bytes([version]), 1)
    for read in (
        lambda: pins.leaf_is_pinned(bad, []),
        lambda: pins.check_times([bad], world.NOW),
        lambda: server.read([bad]),
    ):
        with pytest.raises(TlsError, match="can't be read"):
            read()


def test_a_server_certificate_whose_name_is_bits() -> None:
    # A TypeError of the cryptography package's.
    der = world.Cert("server", "server", authority=True, serial=1).der()
    bad = der.replace(tlv(0x0C, b"server"), tlv(0x03, b"\0erver"))
    assert bad != der
    for read in (lambda: pins.check_times([bad], world.NOW), lambda: server.read([bad])):
        with pytest.raises(TlsError, match="can't be read"):
            read()


def test_a_server_certificate_with_an_extension_twice_or_a_strange_name() -> None:
    # DuplicateExtension and UnsupportedGeneralNameType are no ValueErrors either.
    made = world.Cert("server", "server", authority=True, serial=1)
    made.extra = [(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), tlv(0x30, tlv(0xA3, b""))), False)]
    with pytest.raises(TlsError, match="can't be read"):
        server.read([made.der()])
    made.extra = [(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{arc}"), b""), False) for arc in (4, 5)]
    twice = made.der().replace(bytes.fromhex("2a0305"), bytes.fromhex("2a0304"))
    with pytest.raises(TlsError, match="can't be read"):
        server.read([twice])


def test_a_header_that_would_repaint_the_terminal() -> None:
    # Content-Length stood in the message as the service sent it.
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\x1b[2J\r\n\r\n"
    hold(TARGETS["transport.http"], data)
    with pytest.raises(TransportError, match=r"0\\x1b\[2J bytes"):
        TARGETS["transport.http"].call(data)


def test_luks_metadata_of_megabytes_is_refused_before_it_is_parsed() -> None:
    # An area of 4 MiB made 150 MiB of Python objects in early boot.
    text = b'{"a":[' + b'"",' * (metadata.MAX_TEXT // 3) + b"0]}"
    with pytest.raises(HeaderRefused, match="are allowed"):
        metadata.parse(text, 4 << 20)


def test_a_year_below_1000_has_its_zeros() -> None:
    # strftime of glibc leaves them out, and the document was no longer the one that was read.
    moment = datetime(211, 3, 1, 12, 0, 59, 999_999, tzinfo=UTC)
    assert canonical.rfc3339(moment) == "0211-03-01T12:00:59Z"
    said = canonical.Reader({"at": canonical.rfc3339(moment)}, "sample", frozenset({"at"})).time("at")
    assert said == moment.replace(microsecond=0)
