"""Every row of the protocol's failure table that leaves the nonce alive, against the real server: status and text."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core import headpost
from tests.support.simulator import pki_state
from tests.support.tas import Prover, RunningTas
from tests.support.tasworld import MALFORMED, NOT_JSON, SECRET_ROUTE, SPENT, provers, service, spent, tee

__all__ = ["pki_state", "provers", "service", "tee"]


def test_secret_is_released_and_marked(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    prover = provers[tee]
    answer = service.get_secret(prover.body(service.nonce(), tee))
    assert prover.unwrap(answer) == service.secret("disk")
    assert set(answer.json) == {"secret_key", "trust"}
    assert answer.json["trust"] == "added-root"
    assert set(answer.json["secret_key"]) == {"blob", "iv", "tag", "wrapped_key"}
    record = next(line for line in service.log() if line.get("request") == answer.headers["X-Request-Id"])
    assert (record["verdict"], record["trust"], record["policy"]) == ("released", "added-root", tee)


def test_quoted_nonce_as_old_agents_send_it(service: RunningTas, provers: dict[str, Prover]) -> None:
    nonce = service.nonce()
    answer = service.get_secret({**provers["snp"].body(nonce, "snp"), "nonce": f'"{nonce}"'})
    assert provers["snp"].unwrap(answer) == service.secret("disk")


@pytest.mark.parametrize(
    ("encoding", "form"),
    [
        (Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        (Encoding.PEM, PublicFormat.PKCS1),
        (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
)
def test_forms_of_the_key(
    service: RunningTas, provers: dict[str, Prover], encoding: Encoding, form: PublicFormat
) -> None:
    prover = provers["snp"]
    body = prover.body(service.nonce(), "snp", key=prover.public(encoding, form))
    assert prover.unwrap(service.get_secret(body)) == service.secret("disk")


def test_alias_of_the_nonce_route(service: RunningTas, provers: dict[str, Prover]) -> None:
    nonce = service.request("GET", "/alphav1/nonce").json["nonce"]
    assert provers["snp"].unwrap(service.get_secret(provers["snp"].body(nonce, "snp"))) == service.secret("disk")


# Wrong before the nonce is looked at


@pytest.mark.parametrize("key", ["", "x", "0" * 64, "\u00ff" * 64, "Bearer x"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/version"), ("GET", "/kb/v0/get_nonce"), ("POST", SECRET_ROUTE)])
def test_api_key(service: RunningTas, method: str, path: str, key: str) -> None:
    body = {"tee-type": "amd-sev-snp"} if method == "POST" else None
    assert service.request(method, path, body, headers={"X-API-KEY": key}).error == (401, "Unauthorized")


def test_version(service: RunningTas) -> None:
    answer = service.request("GET", "/version")
    assert (answer.status, set(answer.json)) == (200, {"version"})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/version", 405),
        ("GET", SECRET_ROUTE, 405),
        ("DELETE", "/kb/v0/get_nonce", 405),
        ("GET", "/", 404),
        ("GET", "/version/", 404),
        ("GET", "/policy/v0/list", 404),
        ("POST", "/alphav1/certify", 404),
    ],
)
def test_routes(service: RunningTas, method: str, path: str, status: int) -> None:
    answer = service.request(method, path)
    assert answer.status == status
    assert set(answer.json) == {"error"}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
def test_content_type(service: RunningTas, kind: str) -> None:
    answer = service.request("POST", SECRET_ROUTE, raw=b"{}", headers={"Content-Type": kind})
    assert answer.error == (415, NOT_JSON)


def test_no_body(service: RunningTas) -> None:
    assert service.request("POST", SECRET_ROUTE).error == (415, NOT_JSON)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"nonsense",
        b"[]",
        b'["x"]',
        b'"text"',
        b"7",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
    ],
    ids=lambda raw: raw[:8].hex() or "empty",
)
def test_malformed_json_is_400(service: RunningTas, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert service.request("POST", SECRET_ROUTE, raw=raw, headers=headers).error == MALFORMED


@pytest.mark.parametrize("path", [SECRET_ROUTE, headpost.PATH])
def test_without_a_key_no_byte_of_the_body_is_waited_for(service: RunningTas, path: str) -> None:
    """What it is, how long it is and whether it ever comes does not matter; upstream parses it first."""
    headers = {"Content-Type": "application/json", "Content-Length": "2000000", "X-API-KEY": "x"}
    assert service.request("POST", path, raw=b"{", headers=headers).error == (401, "Unauthorized")


def test_empty_object(service: RunningTas) -> None:
    assert service.get_secret({}).error == (400, "Request body is required")


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_more_than_2_mib(service: RunningTas, chunked: bool) -> None:
    headers = {"Content-Type": "application/json"} | ({"Transfer-Encoding": "chunked"} if chunked else {})
    body = b'{"x":"' + b"x" * (2 << 20) + b'"}'
    raw = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    answer = service.request("POST", SECRET_ROUTE, raw=raw, headers=headers)
    assert answer.error == (413, "The data value transmitted exceeds the capacity limit.")


def test_body_of_2_mib_is_read(service: RunningTas) -> None:
    body = b'{"x":"' + b"x" * ((2 << 20) - 8) + b'"}'
    answer = service.request("POST", SECRET_ROUTE, raw=body, headers={"Content-Type": "application/json"})
    assert answer.error == (400, "Invalid or missing 'tee-type' field")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"tee-type": "sev"}, (400, "Invalid or missing 'tee-type' field")),
        ({"nonce": ""}, (400, "Nonce is required")),
        ({"nonce": "policy:snp"}, SPENT),
        ({"nonce": "0" * 64}, SPENT),
    ],
)
def test_what_leaves_the_nonce_alive(
    service: RunningTas, provers: dict[str, Prover], change: dict[str, Any], error: tuple[int, str]
) -> None:
    nonce = service.nonce()
    assert service.get_secret({**provers["snp"].body(nonce, "snp"), **change}).error == error
    assert not spent(service, provers["snp"], nonce, "snp")


def test_wrong_api_key_leaves_the_nonce_alive(service: RunningTas, provers: dict[str, Prover]) -> None:
    nonce = service.nonce()
    body = provers["snp"].body(nonce, "snp")
    assert service.request("POST", SECRET_ROUTE, body, headers={"X-API-KEY": "x"}).status == 401
    assert not spent(service, provers["snp"], nonce, "snp")
