"""The TLS transport against a loopback server that lies, stalls, drips and floods."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core.config import Pin
from agent.core.errors import ConfigError, TlsError, TransportError
from agent.deadline import Deadline
from agent.transport.stdlib import Peer, StdlibTransport
from tests.support.certificates import NOW, Identity, ca_pin, make, spki_pin
from tests.support.fake_tas import FakeTas, http, raw
from tests.support.transport import INTERMEDIATE, LONG, ROOT, SERVER, STRANGER, Acting, ask, serving, tas

__all__ = ["tas"]


def refused(tas: FakeTas, error: type[TransportError], code: str, pins: tuple[Pin, ...], **how: Any) -> None:
    """The peer is refused with this code, and got no byte of ours."""
    with pytest.raises(error) as caught:
        ask(tas, pins, **how)
    assert caught.value.code == code
    assert tas.seen == []


def test_spki_pin_ignores_dates_and_names(tmp_path: Path) -> None:
    old = make("old", address="192.0.2.1", begins=NOW - timedelta(days=900), ends=NOW - timedelta(days=800))
    with serving(tmp_path, old) as tas:
        assert ask(tas, (spki_pin(STRANGER), spki_pin(old))).status == 200


def test_other_key_gets_no_byte(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", (spki_pin(STRANGER), spki_pin(ROOT), spki_pin(INTERMEDIATE)))
    assert tas.early_bytes == 0


def test_a_ca_pin_is_no_spki_pin(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", (Pin("spki", ROOT.digest),))


@pytest.mark.parametrize("pinned", [ROOT, INTERMEDIATE], ids=["root", "intermediate"])
def test_ca_pin_accepts_chain_name_and_time(tas: FakeTas, pinned: Identity) -> None:
    pem = STRANGER.pem() + ROOT.pem() + INTERMEDIATE.pem()
    assert ask(tas, (ca_pin(pinned),), authorities=pem).status == 200


def test_ca_file_alone_is_not_believed(tas: FakeTas) -> None:
    with pytest.raises(ConfigError, match="pinned key"):
        ask(tas, (ca_pin(STRANGER),), authorities=ROOT.pem())


def test_ca_pin_refuses_another_chain(tas: FakeTas) -> None:
    other = make("other root", authority=True)
    refused(tas, TlsError, "transport.tls.chain", (ca_pin(other),), authorities=other.pem() + ROOT.pem())


def test_ca_pin_refuses_another_name(tmp_path: Path) -> None:
    with serving(tmp_path, make("elsewhere", INTERMEDIATE, address="127.0.0.2")) as tas:
        refused(tas, TlsError, "transport.tls.chain", (ca_pin(ROOT),), authorities=ROOT.pem())


@pytest.mark.parametrize("days", [-2, 31])
def test_ca_pin_judges_times_at_the_time_given(tas: FakeTas, days: int) -> None:
    at = NOW + timedelta(days=days)
    refused(tas, TlsError, "transport.tls.validity", (ca_pin(ROOT),), authorities=ROOT.pem(), at=at)


def test_ca_pin_judges_intermediates_too(tmp_path: Path) -> None:
    short = make("short-lived", ROOT, authority=True, ends=NOW + timedelta(days=1))
    with serving(tmp_path, make("server", short)) as tas:
        assert ask(tas, (ca_pin(ROOT),), authorities=ROOT.pem()).status == 200
        tas.seen.clear()
        at = NOW + timedelta(days=2)
        refused(tas, TlsError, "transport.tls.validity", (ca_pin(ROOT),), authorities=ROOT.pem(), at=at)


def test_certificates_of_a_wrong_clock_are_accepted_at_build_time(tmp_path: Path) -> None:
    built = datetime(2040, 1, 1, tzinfo=UTC)
    root = make("root", authority=True, begins=built - timedelta(days=1), ends=built + timedelta(days=9))
    server = make("server", root, begins=built - timedelta(days=1), ends=built + timedelta(days=9))
    with serving(tmp_path, server) as tas:
        assert ask(tas, (ca_pin(root),), authorities=root.pem(), at=built).status == 200


def test_both_kinds_of_pins_spki_first(tas: FakeTas) -> None:
    assert ask(tas, (ca_pin(ROOT), spki_pin(SERVER)), authorities=ROOT.pem(), at=NOW + timedelta(days=99)).status == 200
    assert ask(tas, (ca_pin(ROOT), spki_pin(STRANGER)), authorities=ROOT.pem()).status == 200
    tas.seen.clear()
    refused(tas, TlsError, "transport.tls.chain", (ca_pin(STRANGER), spki_pin(ROOT)), authorities=STRANGER.pem())


def test_https_without_pins_is_refused(tas: FakeTas) -> None:
    refused(tas, TlsError, "transport.tls.pin", ())


def test_old_tls_is_refused(tmp_path: Path) -> None:
    """A server that speaks TLS 1.1 at most."""
    with serving(tmp_path, SERVER) as tas:
        tas.old_tls = True
    with tas:
        refused(tas, TlsError, "transport.tls", (spki_pin(SERVER),))


def test_plain_http_to_loopback_only() -> None:
    with FakeTas() as tas:
        assert ask(tas, ()).status == 200
        tas.seen.clear()
        refused(tas, TlsError, "transport.tls.plain", (), url="http://192.0.2.1:9")


def test_plain_http_on_a_tls_port(tas: FakeTas) -> None:
    with pytest.raises(TransportError):
        ask(tas, (), url=tas.url.replace("https", "http"))
    assert tas.seen == []


def test_tls_to_a_plain_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = Peer(f"https://127.0.0.1:{server.getsockname()[1]}", (spki_pin(SERVER),), lambda: NOW)
        deadline = Acting(server, lambda connection: connection.sendall(http(400, b"speak http")))
        with pytest.raises(TlsError):
            StdlibTransport(peer).request("GET", "/", headers={}, body=b"", max_bytes=9, deadline=deadline)


def test_redirect_is_not_followed(tas: FakeTas) -> None:
    tas.secret_script.append(raw(http(302, b"", f"Location: {tas.url}/version")))
    answer = ask(tas, (spki_pin(SERVER),), path="/kb/v0/get_secret")
    assert (answer.status, len(tas.seen)) == (302, 1)


def test_proxies_of_the_environment_are_not_used(tas: FakeTas, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(tas, (spki_pin(SERVER),)).status == 200


def test_request_as_sent(tas: FakeTas) -> None:
    transport = StdlibTransport(Peer(tas.url + "/prefix", (spki_pin(SERVER),), lambda: NOW))
    answer = transport.request(
        "POST", "/version", headers={"X-A": "b"}, body=b"body", max_bytes=99, deadline=Deadline(LONG, "t")
    )
    assert answer.body == b'{"version": "0.1.0"}'
    assert answer.headers["connection"] == "close"
    [seen] = tas.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/prefix/version", b"body")
    assert seen.headers == {
        "host": f"127.0.0.1:{tas.port}",
        "connection": "close",
        "accept-encoding": "identity",
        "x-a": "b",
        "content-length": "4",
    }
