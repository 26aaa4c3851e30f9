"""Looking at a server without believing it, and setup under an authority's pin."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from agent.admin import plan, server, setup
from agent.admin.server import Shown
from agent.core.config import Config, Pin
from agent.core.errors import DeadlineExceeded, TlsError, TransportError
from agent.deadline import Deadline
from tests.support.certificates import Identity, ca_pin, make, spki_pin
from tests.support.fake_tas import API_KEY, FakeTas, closed_port

ROOT_CA = make("root", authority=True)
MIDDLE = make("middle", ROOT_CA, authority=True)
SERVER = make("tas", MIDDLE)
OTHER = make("other")


def deadline(seconds: float = 60) -> Deadline:
    return Deadline(seconds, "test")


def never(_: Shown) -> bool:
    raise AssertionError("nobody is to be asked")


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return SERVER.chain_file(tmp_path / "chain.pem")


def test_it_shows_what_the_server_shows_and_sends_nothing(chain: Path) -> None:
    with FakeTas(chain) as tas:
        shown = server.look(tas.url, deadline())
    assert tas.seen == []
    assert tas.early_bytes == 0
    assert (shown.subject, shown.issuer, shown.names) == ("CN=tas", "CN=middle", ("127.0.0.1",))
    assert shown.pin == spki_pin(SERVER)
    assert [(one.subject, one.pin) for one in shown.authorities] == [("CN=middle", ca_pin(MIDDLE))]
    assert (shown.not_before, shown.not_after) == (
        SERVER.certificate.not_valid_before_utc,
        SERVER.certificate.not_valid_after_utc,
    )


@pytest.mark.parametrize("pins", [(spki_pin(OTHER), spki_pin(SERVER)), (ca_pin(MIDDLE),)], ids=["spki", "ca"])
def test_a_given_pin_is_enough_if_it_is_the_server_s(pins: tuple[Pin, ...], chain: Path, tmp_path: Path) -> None:
    with FakeTas(chain) as tas:
        service = setup.meet(tas.url, pins, never, deadline())
        config = plan.merged(None, setup.section(service, tmp_path / "etc"), [], str(tmp_path / "etc" / "f.toml"))
        assert setup.asked(config, service, API_KEY, deadline()) == "0.1.0"
    assert service.pins == pins
    written = setup.write(setup.changes(config, service, API_KEY))
    by_authority = pins[0].kind == "ca"
    assert [path.name for path in written] == ["tas-api-key", *(["tas-ca.pem"] if by_authority else []), "f.toml"]
    # What was written is enough to meet the service again.
    again = setup.existing(tmp_path / "etc" / "f.toml")
    assert again == config


@pytest.mark.parametrize("stranger", [OTHER, ROOT_CA, SERVER], ids=["other", "root-not-sent", "leaf-as-ca"])
def test_a_pin_of_somebody_else_is_not(stranger: Identity, chain: Path) -> None:
    pin = ca_pin(stranger) if stranger is not OTHER else spki_pin(stranger)
    with FakeTas(chain) as tas, pytest.raises(TlsError) as caught:
        setup.meet(tas.url, (pin,), never, deadline())
    assert caught.value.code == "transport.tls.pin"
    assert tas.seen == []


def test_without_a_pin_somebody_is_asked(chain: Path) -> None:
    asked: list[Shown] = []

    def confirm(shown: Shown) -> bool:
        asked.append(shown)
        return True

    with FakeTas(chain) as tas:
        service = setup.meet(tas.url, (), confirm, deadline())
        assert service.pins == (spki_pin(SERVER),) == (asked[0].pin,)
        with pytest.raises(TlsError):
            setup.meet(tas.url, (), lambda _: False, deadline())


def _speak_plainly(listener: socket.socket) -> None:
    link, _ = listener.accept()
    with link:
        link.sendall(b"220 this is no TLS\r\n")


def test_no_tls_and_nobody_there_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        speaker = threading.Thread(target=_speak_plainly, args=(plain,))
        speaker.start()
        with pytest.raises(TlsError):
            server.look(f"https://127.0.0.1:{plain.getsockname()[1]}", deadline())
        speaker.join()
    with closed_port() as port, pytest.raises(TransportError) as caught:
        server.look(f"https://127.0.0.1:{port}", deadline())
    assert not isinstance(caught.value, TlsError)


def test_a_server_that_never_answers_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises((DeadlineExceeded, TransportError)):
        server.look(f"https://127.0.0.1:{silent.getsockname()[1]}", deadline(1))


def test_a_setup_that_fails_later_writes_nothing(chain: Path, tmp_path: Path) -> None:
    """The key is asked for under the pins only: a server that changes after it was looked at is refused."""
    with FakeTas(chain) as tas:
        service = setup.meet(tas.url, (spki_pin(SERVER),), never, deadline())
    with FakeTas(OTHER.chain_file(tmp_path / "other.pem")) as tas:
        moved = setup.Service(tas.url, service.pins)
        config = Config(str(tmp_path / "f.toml"), setup.section(moved, tmp_path))
        with pytest.raises(TlsError):
            setup.asked(config, moved, API_KEY, deadline())
    assert tas.seen == []
