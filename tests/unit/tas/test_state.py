"""The state directory: made once, kept, and refused when others can enter."""

from __future__ import annotations

import hashlib
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.errors import ConfigError, Conflict
from tas import state as states
from tas import tls


def test_create_makes_what_is_missing_and_keeps_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "tas"
    state = states.create(folder)
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(made) == {"tls-key.pem", "tls-cert.pem", "api-key", "lock"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    states.create(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
    assert len(state.read_api_key()) == 64
    state.api_key.unlink()
    states.create(folder)
    assert state.tls_key.read_bytes() == made["tls-key.pem"]
    assert state.api_key.read_bytes() != made["api-key"]


def test_pin_is_of_the_key(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas", ("tas.example.org", "192.0.2.7"))
    certificate = x509.load_pem_x509_certificate(state.tls_cert.read_bytes())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert tls.spki_pin(state.tls_cert.read_bytes()) == f"spki:sha256:{hashlib.sha256(spki).hexdigest()}"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"tas.example.org", "localhost"} <= set(names.get_values_for_type(x509.DNSName))
    assert {"192.0.2.7", "127.0.0.1"} <= {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}


def test_new_certificate_keeps_the_pin(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas", ("old.example.org",))
    old = state.tls_cert.read_bytes()
    with pytest.raises(Conflict, match="does not stand for"):
        states.create(state.folder, ("new.example.org",))
    assert state.tls_cert.read_bytes() == old
    state.tls_cert.unlink()
    states.create(state.folder, ("new.example.org",))
    new = state.tls_cert.read_bytes()
    assert tls.spki_pin(new) == tls.spki_pin(old)
    assert tls.names_missing(new, ("new.example.org", "localhost", "old.example.org")) == ["old.example.org"]


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_key_that_is_none(tmp_path: Path, content: bytes) -> None:
    state = states.create(tmp_path / "tas")
    state.tls_cert.unlink()
    state.tls_key.write_bytes(content)
    with pytest.raises(ConfigError, match="TLS key"):
        states.create(state.folder)
    assert state.tls_key.read_bytes() == content


def test_certificate_that_is_none(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas")
    state.tls_cert.write_bytes(b"x")
    with pytest.raises(ConfigError, match="no PEM certificate"):
        tls.spki_pin(state.tls_cert.read_bytes())


def test_context_speaks_no_old_tls(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas")
    assert tls.server_context(state.tls_cert, state.tls_key).minimum_version is ssl.TLSVersion.TLSv1_2


def test_key_of_another_certificate(tmp_path: Path) -> None:
    one, two = states.create(tmp_path / "one"), states.create(tmp_path / "two")
    with pytest.raises(ConfigError, match="no usable pair"):
        tls.server_context(one.tls_cert, two.tls_key)


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
def test_open_directory_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "tas"
    states.create(folder)
    folder.chmod(mode)
    for use in (states.create, states.open_existing):
        with pytest.raises(ConfigError, match="open to other users"):
            use(folder)


def test_no_state(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("absent", "empty", "file", "link"):
        with pytest.raises(ConfigError):
            states.open_existing(tmp_path / name)


def test_bad_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a DNS name nor an address"):
        states.create(tmp_path / "tas", ("\u00e4.example",))


def test_short_api_key(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas")
    state.api_key.write_text("short\n")
    with pytest.raises(ConfigError, match="32 characters"):
        state.read_api_key()


def test_one_server_at_a_time(tmp_path: Path) -> None:
    state = states.create(tmp_path / "tas")
    assert not state.is_served()
    with state.serving():
        assert state.is_served()
        with pytest.raises(Conflict), state.serving(tries=2):
            pytest.fail("two servers")
    assert not state.is_served()


def test_files_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(11))
    assert states.read_file(path, 11) == bytes(11)
    with pytest.raises(ConfigError, match="more than 10 bytes"):
        states.read_file(path, 10)
