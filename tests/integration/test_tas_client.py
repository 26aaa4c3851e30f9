"""The client as the product builds it (``open_tas``), over TLS, against a service that is honest, lying, slow or huge."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.config import Config, Pin, TasConfig
from agent.core.errors import (
    DeadlineExceeded,
    Denied,
    ProtocolError,
    SecretError,
    ServerError,
    TeeAgentError,
    TlsError,
    TooLarge,
    TransportError,
)
from agent.deadline import Deadline
from agent.session import open_tas
from agent.tas_client import TasClient
from agent.unseal import WrappingKey
from tests.support.certificates import ca_pin, make, spki_pin
from tests.support.fake_tas import API_KEY, SECRET, FakeTas, Script, Seen, answer, http, raw, wrap
from tests.support.quotes import Bound

SERVER = make("server")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SERVER.chain_file(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
def tas(chain: Path) -> Iterator[FakeTas]:
    with FakeTas(chain) as running:
        yield running


@pytest.fixture
def configure(tas: FakeTas, tmp_path: Path) -> Callable[..., Config]:
    key_file = tmp_path / "api-key"
    key_file.write_text(API_KEY + "\n")

    def make_config(*, pins: tuple[Pin, ...] = (spki_pin(SERVER),), **how: Any) -> Config:
        return Config("test.toml", TasConfig(tas.url, pins, key_file, **how))

    return make_config


Connect = Callable[..., TasClient]


@pytest.fixture
def connect(configure: Callable[..., Config]) -> Connect:
    return lambda **how: open_tas(configure(**how), quotes=Bound())


def fetch(client: TasClient, seconds: float = 60.0) -> bytes:
    with client.fetch_secret("disk", Deadline(seconds, "secret")) as secret:
        return bytes(secret.reveal())


@pytest.mark.parametrize("algorithm", ["AES-GCM", "AES-KWP"])
@pytest.mark.parametrize("field", ["policy-id", "key-id"])
def test_a_secret(tas: FakeTas, connect: Connect, algorithm: str, field: str) -> None:
    tas.algorithm = algorithm
    assert fetch(connect(secret_field=field)) == SECRET
    body = tas.seen[-1].json
    assert body[field] == "disk"
    assert body["report-data-binding"] is True
    assert len(base64.b64decode(body["wrapping-key"])) == 398  # PKCS#1, RSA-3072


def test_version_and_nonce(connect: Connect) -> None:
    assert connect().version(Deadline(60, "t")) == "0.1.0"
    assert connect().nonce(Deadline(60, "t"))


def test_plain_http_on_this_machine(tmp_path: Path) -> None:
    key_file = tmp_path / "api-key"
    key_file.write_text(API_KEY)
    with FakeTas() as plain:
        config = Config("test.toml", TasConfig(plain.url, (), key_file))
        assert fetch(open_tas(config, quotes=Bound())) == SECRET


def test_ca_pin_from_the_configuration(tmp_path: Path) -> None:
    root = make("root", authority=True)
    (tmp_path / "ca.pem").write_bytes(root.pem())
    (tmp_path / "api-key").write_text(API_KEY)
    with FakeTas(make("server", root).chain_file(tmp_path / "server.pem")) as tas:
        settings = TasConfig(tas.url, (ca_pin(root),), tmp_path / "api-key", ca_file=tmp_path / "ca.pem")
        assert fetch(open_tas(Config("f", settings), quotes=Bound())) == SECRET


def test_the_notice_of_an_added_root(
    tas: FakeTas, configure: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    def release(seen: Seen) -> list[bytes]:
        key = base64.b64decode(seen.json["wrapping-key"])
        return [http(200, json.dumps({"secret_key": wrap(key, SECRET), "trust": "added-root"}).encode())]

    tas.secret_script.extend([release, release])
    told: list[str] = []
    assert fetch(open_tas(configure(), quotes=Bound(), notice=told.append)) == SECRET
    assert len(told) == 1
    assert fetch(open_tas(configure(), quotes=Bound())) == SECRET
    assert "added root" in capsys.readouterr().err


# Retried: the next try is honest. Every try shows a new nonce, key and evidence.
RETRIED: dict[str, Script] = {
    "internal-error": answer(500, {"error": "Internal server error"}),
    "rate-limit": answer(429, {"error": "rate_limit_exceeded", "message": "200 per 1 minute"}, "Retry-After: 0"),
    "spent-nonce": answer(401, {"error": "Invalid or expired nonce"}),
    "timeout": answer(408, {}),
    "gateway": raw(http(502, b"<html>bad gateway</html>")),
    "cut": raw(http(200, b"{", length=500)),
    "no-answer": raw(),
}


@pytest.mark.parametrize("name", RETRIED)
def test_retried(tas: FakeTas, connect: Connect, name: str) -> None:
    tas.secret_script.append(RETRIED[name])
    assert fetch(connect()) == SECRET
    first, second = (seen.json for seen in tas.seen if seen.method == "POST")
    assert all(first[part] != second[part] for part in ("nonce", "wrapping-key", "tee-evidence"))


def test_a_lost_nonce_answer_is_retried(tas: FakeTas, connect: Connect) -> None:
    tas.nonce_script.extend([raw(), answer(503, {})])
    assert fetch(connect()) == SECRET


def test_a_request_that_takes_too_long_is_retried(tas: FakeTas, connect: Connect) -> None:
    tas.secret_script.append(lambda _: tas.drip(b"HTTP/1.1 200 OK\r\n" + b"A" * 9999))
    assert fetch(connect(request_seconds=1.0)) == SECRET


def changed(**changes: str) -> Script:
    """An honest answer with parts replaced."""

    def script(seen: Seen) -> list[bytes]:
        released = wrap(base64.b64decode(seen.json["wrapping-key"]), SECRET)
        return [http(200, json.dumps({"secret_key": {**released, **changes}}).encode())]

    return script


def flipped(name: str) -> Script:
    def script(seen: Seen) -> list[bytes]:
        released = wrap(base64.b64decode(seen.json["wrapping-key"]), SECRET)
        data = bytearray(base64.b64decode(released[name]))
        data[0] ^= 1
        released[name] = base64.b64encode(data).decode()
        return [http(200, json.dumps({"secret_key": released}).encode())]

    return script


def for_another_key(_: Seen) -> list[bytes]:
    return [http(200, json.dumps({"secret_key": wrap(WrappingKey().public_der, SECRET)}).encode())]


FINAL: dict[str, tuple[Script, type[TeeAgentError], str]] = {
    "unauthorized": (answer(401, {"error": "Unauthorized"}), Denied, "denied.api-key"),
    "attestation": (answer(400, {"error": "TEE verification failed"}), Denied, "denied.attestation"),
    "wants-policy-id": (answer(400, {"error": "Policy ID is required"}), Denied, "denied.field"),
    "no-secret": (answer(404, {"error": "Secret retrieval failed"}), Denied, "denied.no-secret"),
    "forbidden": (answer(403, {}), Denied, "denied.api-key"),
    "too-large": (
        answer(413, {"error": "The data value transmitted exceeds the capacity limit."}),
        ProtocolError,
        "protocol",
    ),
    "redirect": (answer(307, {}, "Location: https://127.0.0.1:1/"), ProtocolError, "protocol"),
    "no-json": (raw(http(200, b"<html>")), ProtocolError, "protocol.answer"),
    "flood": (raw(http(200, b"A" * 200_000)), TooLarge, "transport.too-large"),
    "bad-base64": (changed(blob="*"), ProtocolError, "protocol.answer"),
    "short-iv": (changed(iv=base64.b64encode(bytes(11)).decode()), ProtocolError, "protocol.answer"),
    "long-tag": (changed(tag=base64.b64encode(bytes(17)).decode()), ProtocolError, "protocol.answer"),
    "unknown-algorithm": (
        changed(algorithm=base64.b64encode(b"ROT-13").decode()),
        ProtocolError,
        "protocol.algorithm",
    ),
    "other-key": (for_another_key, SecretError, "secret.wrapped-key"),
    "flipped-blob": (flipped("blob"), SecretError, "secret.tampered"),
    "flipped-iv": (flipped("iv"), SecretError, "secret.tampered"),
    "flipped-tag": (flipped("tag"), SecretError, "secret.tampered"),
    "flipped-key": (flipped("wrapped_key"), SecretError, "secret.wrapped-key"),
}


@pytest.mark.parametrize("name", FINAL)
def test_final(tas: FakeTas, connect: Connect, name: str) -> None:
    script, kind, code = FINAL[name]
    tas.secret_script.append(script)
    with pytest.raises(TeeAgentError) as caught:
        fetch(connect())
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert [seen.method for seen in tas.seen] == ["GET", "POST"]


def test_a_nonce_of_another_form_is_never_quoted(tas: FakeTas, connect: Connect) -> None:
    tas.nonce_script.append(answer(200, {"nonce": "policy:victim"}))
    with pytest.raises(ProtocolError):
        fetch(connect())
    assert [seen.method for seen in tas.seen] == ["GET"]


def test_a_stranger_learns_nothing(tas: FakeTas, connect: Connect) -> None:
    with pytest.raises(TlsError):
        fetch(connect(pins=(spki_pin(make("other")),)))
    assert tas.seen == []
    assert tas.early_bytes == 0


def test_wrong_api_key(tas: FakeTas, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("wrong")
    with pytest.raises(Denied) as caught:
        fetch(connect())
    assert caught.value.exit_status == 77
    assert "api_key_file" in caught.value.hint


def test_a_service_that_stays_down_ends_with_the_deadline_and_its_reason(tas: FakeTas, connect: Connect) -> None:
    tas.nonce_script.extend([answer(503, {"error": "maintenance"}, "Retry-After: 600")] * 9)
    with pytest.raises(DeadlineExceeded, match=r"1 failed, the last: .*503 \(maintenance\)"):
        fetch(connect(), seconds=30.0)


def test_attempts_end_it_too(tas: FakeTas, connect: Connect) -> None:
    tas.nonce_script.extend([answer(500, {})] * 9)
    with pytest.raises(ServerError):
        fetch(connect(attempts=2))
    assert len(tas.seen) == 2


def test_nobody_there(configure: Callable[..., Config]) -> None:
    config = configure()
    assert config.tas is not None
    gone = replace(config, tas=replace(config.tas, url="https://127.0.0.1:1", attempts=1))
    with pytest.raises(TransportError, match="refused"):
        fetch(open_tas(gone, quotes=Bound()))


def test_no_tee_is_said_before_any_network(tas: FakeTas, configure: Callable[..., Config], tmp_path: Path) -> None:
    config = configure()
    here = replace(config, evidence=replace(config.evidence, tsm_root=tmp_path / "absent"))
    with pytest.raises(TeeAgentError) as caught:
        open_tas(here)
    assert caught.value.exit_status == 69
    assert tas.handshakes == 0
