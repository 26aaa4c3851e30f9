"""The attestation service's protocol, bytes in and values or typed errors out: each row of its failure table."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.core.errors import Denied, ProtocolError, ServerError, TeeAgentError, UsageError
from agent.core.exchange import MAX_HINTS, MAX_REQUEST, Attempt, Wrapped, version_answer, version_request
from agent.core.model import Endorsements, Evidence, Nonce, Tee

NONCE = "0123456789abcdef" * 4
EVIDENCE = Evidence(Tee.SNP, b"report", b"", "sev_guest")
GCM = {"blob": b"sealed", "iv": b"i" * 12, "tag": b"t" * 16, "wrapped_key": b"w" * 384}
KWP = {"blob": b"b" * 40, "iv": b"", "tag": b"", "wrapped_key": b"w" * 384, "algorithm": b"AES-KWP"}


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def reply(status: int, value: object, **headers: str) -> Reply:
    return Reply(status, json.dumps(value).encode(), {name.replace("_", "-"): text for name, text in headers.items()})


def encoded(parts: dict[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(value).decode() for name, value in parts.items()}


def started(**how: Any) -> Attempt:
    attempt = Attempt("disk", **how)
    assert attempt.nonce_answer(reply(200, {"nonce": NONCE})) == Nonce(NONCE)
    return attempt


def released(**changes: bytes) -> Wrapped:
    return started().secret_answer(reply(200, {"secret_key": encoded({**GCM, **changes})}))


def test_requests_on_the_wire() -> None:
    assert (version_request().method, version_request().path) == ("GET", "/version")
    attempt = Attempt("disk")
    assert (attempt.nonce_request().method, attempt.nonce_request().path) == ("GET", "/kb/v0/get_nonce")
    attempt.nonce_answer(reply(200, {"nonce": NONCE}))
    request = attempt.secret_request(EVIDENCE, b"key", Endorsements())
    assert (request.method, request.path) == ("POST", "/kb/v0/get_secret")
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {
        "tee-type": "amd-sev-snp",
        "nonce": NONCE,
        "tee-evidence": "cmVwb3J0",
        "policy-id": "disk",
        "report-data-binding": True,
        "wrapping-key": "a2V5",
    }


def test_the_older_field_name_is_bound_just_the_same() -> None:
    body = json.loads(started(policy_field="key-id").secret_request(EVIDENCE, b"key", Endorsements()).body)
    assert body["key-id"] == "disk"
    assert "policy-id" not in body
    assert body["report-data-binding"] is True


def test_tdx_names_itself() -> None:
    body = json.loads(started().secret_request(Evidence(Tee.TDX, b"q"), b"key", Endorsements()).body)
    assert body["tee-type"] == "intel-tdx"


def test_endorsements_go_along_where_they_fit() -> None:
    hints = Endorsements(certificates=(b"a" * 1000, b"b"))
    body = json.loads(started().secret_request(EVIDENCE, b"key", hints).body)
    assert [base64.b64decode(one) for one in body["endorsements"]["certificates"]] == [b"a" * 1000, b"b"]
    much = Endorsements(certificates=(b"a" * MAX_HINTS, b"b"))
    assert "endorsements" not in json.loads(started().secret_request(EVIDENCE, b"key", much).body)


def test_a_request_too_large_for_the_service() -> None:
    with pytest.raises(ProtocolError, match="takes"):
        started().secret_request(Evidence(Tee.SNP, bytes(MAX_REQUEST)), b"key", Endorsements())


def test_a_nonce_serves_one_request() -> None:
    attempt = started()
    attempt.secret_request(EVIDENCE, b"key", Endorsements())
    with pytest.raises(UsageError):
        attempt.secret_request(EVIDENCE, b"key", Endorsements())
    with pytest.raises(UsageError):
        Attempt("disk").secret_request(EVIDENCE, b"key", Endorsements())


@pytest.mark.parametrize(
    "nonce",
    [None, 5, "", NONCE[1:], NONCE + "0", NONCE.upper(), f'"{NONCE}"', NONCE[:63] + " ", NONCE[:63] + "٣", "policy:x"],
)
def test_other_nonces_are_refused(nonce: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        Attempt("disk").nonce_answer(reply(200, {"nonce": nonce}))
    assert caught.value.code == "protocol.nonce"


def test_gcm() -> None:
    wrapped = released()
    assert (wrapped.algorithm, wrapped.blob, wrapped.iv, wrapped.tag, wrapped.wrapped_key) == (
        "AES-GCM",
        b"sealed",
        b"i" * 12,
        b"t" * 16,
        b"w" * 384,
    )
    assert not wrapped.added_root
    assert released(algorithm=b"").algorithm == "AES-GCM"
    assert released(blob=b"").blob == b""


def test_kwp() -> None:
    wrapped = started().secret_answer(reply(200, {"secret_key": encoded(KWP)}))
    assert (wrapped.algorithm, wrapped.blob, wrapped.iv, wrapped.tag) == ("AES-KWP", b"b" * 40, b"", b"")


def test_added_root_is_noticed() -> None:
    answer = reply(200, {"secret_key": encoded(GCM), "trust": "added-root"})
    assert started().secret_answer(answer).added_root


def test_nothing_of_it_is_printed() -> None:
    assert "sealed" not in repr(released())
    assert "cmVwb3J0" not in repr(started().secret_request(EVIDENCE, b"key", Endorsements()))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iv": b"i" * 11}, "protocol.answer"),
        ({"iv": b"i" * 13}, "protocol.answer"),
        ({"iv": b""}, "protocol.answer"),
        ({"tag": b"t" * 15}, "protocol.answer"),
        ({"tag": b"t" * 17}, "protocol.answer"),
        ({"wrapped_key": b""}, "protocol.answer"),
        ({"wrapped_key": b"w" * 1025}, "protocol.answer"),
        ({"algorithm": b"AES-CBC"}, "protocol.algorithm"),
        ({"algorithm": b"aes-kwp"}, "protocol.algorithm"),
        ({"algorithm": b"AES-KWP"}, "protocol.answer"),
        ({"algorithm": b"AES-KWP", "iv": b"", "tag": b"", "blob": b"b" * 8}, "protocol.answer"),
        ({"algorithm": b"AES-KWP", "iv": b"", "tag": b"", "blob": b"b" * 17}, "protocol.answer"),
    ],
)
def test_wrong_shapes(changes: dict[str, bytes], code: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        released(**changes)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["blob", "iv", "tag", "wrapped_key", "algorithm"])
@pytest.mark.parametrize("value", [None, 1, "*", "YQ", "YQ==\n", "YWJj ", "é"])
def test_bad_base64(name: str, value: object) -> None:
    with pytest.raises(ProtocolError):
        started().secret_answer(reply(200, {"secret_key": {**encoded(GCM), name: value}}))


@pytest.mark.parametrize("name", ["blob", "iv", "tag", "wrapped_key"])
def test_missing_parts(name: str) -> None:
    parts = encoded(GCM)
    del parts[name]
    with pytest.raises(ProtocolError, match=name):
        started().secret_answer(reply(200, {"secret_key": parts}))


NO_OBJECT = [b"", b"[]", b'"x"', b"null", b"\xff", b"{", b"[" * 100_000, b"1" * 5000, b"{}"]


@pytest.mark.parametrize("body", NO_OBJECT, ids=range(len(NO_OBJECT)))
def test_answers_that_are_no_object(body: bytes) -> None:
    for ask in (Attempt("disk").nonce_answer, started().secret_answer, version_answer):
        with pytest.raises(ProtocolError):
            ask(Reply(200, body))


@pytest.mark.parametrize("value", ["text", None, [1], {}])
def test_secret_key_is_an_object(value: object) -> None:
    with pytest.raises(ProtocolError):
        started().secret_answer(reply(200, {"secret_key": value}))


def test_version() -> None:
    assert version_answer(reply(200, {"version": "0.1.0"})) == "0.1.0"
    for bad in (1, "", "a" * 65, "a\x1b[2J"):
        with pytest.raises(ProtocolError):
            version_answer(reply(200, {"version": bad}))


# Every row of the protocol's failure table: status, exact body, what it is to us, whether to try again.
TABLE: list[tuple[int, Any, type[TeeAgentError], str]] = [
    (401, {"error": "Unauthorized"}, Denied, "denied.api-key"),
    (500, {"error": "Internal server error"}, ServerError, "server"),
    (405, {"error": "The method is not allowed for the requested URL."}, ProtocolError, "protocol"),
    (404, {"error": "The requested URL was not found on the server. If you entered ..."}, ProtocolError, "protocol"),
    (
        415,
        {"error": "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."},
        ProtocolError,
        "protocol",
    ),
    (400, {"error": "The browser (or proxy) sent a request that this server could not understand."}, Denied, "denied"),
    (400, {"error": "Request body is required"}, Denied, "denied"),
    (413, {"error": "The data value transmitted exceeds the capacity limit."}, ProtocolError, "protocol"),
    (429, {"error": "rate_limit_exceeded", "message": "200 per 1 minute"}, ServerError, "server"),
    (400, {"error": "Invalid or missing 'tee-type' field"}, Denied, "denied"),
    (400, {"error": "Nonce is required"}, Denied, "denied"),
    (401, {"error": "Invalid or expired nonce"}, ServerError, "server.nonce"),
    (400, {"error": "TEE evidence is required"}, Denied, "denied"),
    (400, {"error": "Policy ID is required"}, Denied, "denied.field"),
    (400, {"error": "Key ID is required"}, Denied, "denied.field"),
    (400, {"error": "Report data binding is required"}, Denied, "denied"),
    (400, {"error": "Client's wrapping key is required"}, Denied, "denied"),
    (400, {"error": "Invalid encoding format for wrapping key"}, Denied, "denied"),
    (400, {"error": "TEE verification failed"}, Denied, "denied.attestation"),
    (404, {"error": "Secret retrieval failed"}, Denied, "denied.no-secret"),
    # Not in the table, but on the way: proxies, older services, other servers.
    (401, {"error": "Nonce has expired"}, ServerError, "server.nonce"),
    (403, {"error": "Forbidden"}, Denied, "denied.api-key"),
    (408, None, ServerError, "server"),
    (502, "<html>", ServerError, "server"),
    (503, None, ServerError, "server"),
    (504, [], ServerError, "server"),
    (599, {"error": 5}, ServerError, "server"),
    (302, None, ProtocolError, "protocol"),
    (308, None, ProtocolError, "protocol"),
    (201, {"secret_key": {}}, ProtocolError, "protocol"),
    (204, None, ProtocolError, "protocol"),
    (418, None, ProtocolError, "protocol"),
    (600, None, ProtocolError, "protocol"),
]


@pytest.mark.parametrize(("status", "body", "kind", "code"), TABLE)
def test_failure_table(status: int, body: Any, kind: type[TeeAgentError], code: str) -> None:
    with pytest.raises(TeeAgentError) as caught:
        started().secret_answer(reply(status, body))
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert caught.value.retry is (kind is ServerError)
    assert str(status) in caught.value.message


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_final_ones_on_get_nonce(status: int) -> None:
    with pytest.raises(TeeAgentError) as caught:
        Attempt("disk").nonce_answer(reply(status, {"error": "Invalid or expired nonce"}))
    assert not caught.value.retry


def test_binding_is_named_where_an_old_service_fails() -> None:
    with pytest.raises(Denied) as caught:
        started(policy_field="key-id").secret_answer(reply(400, {"error": "TEE verification failed"}))
    assert "before report-data binding" in caught.value.hint


@pytest.mark.parametrize(
    ("status", "wish", "seconds"),
    [
        (429, "7", 7.0),
        (503, " 7 ", 7.0),
        (429, "999999999999", 3600.0),
        (429, "-1", 0.0),
        (429, "1.5", 0.0),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        (429, "٣", 0.0),
        (500, "7", 0.0),
        (408, "7", 0.0),
    ],
)
def test_retry_after(status: int, wish: str, seconds: float) -> None:
    with pytest.raises(ServerError) as caught:
        started().secret_answer(reply(status, {}, retry_after=wish))
    assert caught.value.retry_after == seconds


def test_the_peers_words_are_made_harmless() -> None:
    with pytest.raises(Denied) as caught:
        started().secret_answer(reply(400, {"error": "\x1b[2J\nroot:" + "A" * 1000}))
    assert "\x1b" not in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
