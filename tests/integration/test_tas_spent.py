"""The rows of the protocol's failure table from which on the nonce is spent, against the real server."""

from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sim.psp import GuestOptions, default_measurement
from sim.qe import DomainOptions
from tests.support.simulator import machine, pki_state
from tests.support.tas import Prover, Reply, RunningTas, b64
from tests.support.tasworld import FAILED, SPENT, provers, service, spent, tee

__all__ = ["pki_state", "provers", "service", "tee"]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("tee-evidence", None, (400, "TEE evidence is required")),
        ("policy-id", None, (400, "Policy ID is required")),
        ("report-data-binding", None, (400, "Report data binding is required")),
        ("report-data-binding", False, (400, "Report data binding is required")),
        ("report-data-binding", "true", (400, "Report data binding is required")),
        ("wrapping-key", None, (400, "Client's wrapping key is required")),
        ("wrapping-key", "%%%", (400, "Invalid encoding format for wrapping key")),
        ("wrapping-key", 7, (400, "Invalid encoding format for wrapping key")),
        ("policy-id", "unknown", FAILED),
        ("policy-id", "snp-other", FAILED),
        ("policy-id", "tdx", FAILED),
        ("tee-type", "intel-tdx", FAILED),
        ("tee-evidence", "%%%", FAILED),
        ("tee-evidence", b64(b"short"), FAILED),
        ("tee-evidence", b64(bytes(1184)), FAILED),
        ("tee-evidence", b64(b"\x02\0\0\0" + bytes(1181)), FAILED),
        ("component-evidence", {"gpu": []}, (400, "Component evidence is not supported")),
        ("endorsements", {"certificates": "x"}, (400, "Invalid endorsements")),
    ],
)
def test_what_costs_the_nonce(
    service: RunningTas, provers: dict[str, Prover], name: str, value: Any, error: tuple[int, str]
) -> None:
    nonce = service.nonce()
    assert service.get_secret({**provers["snp"].body(nonce, "snp"), name: value}).error == error
    assert spent(service, provers["snp"], nonce, "snp")


def test_replayed_request(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    body = provers[tee].body(service.nonce(), tee)
    assert service.get_secret(body).status == 200
    assert service.get_secret(body).error == SPENT


def test_of_concurrent_replays_one_wins(service: RunningTas, provers: dict[str, Prover]) -> None:
    body = provers["snp"].body(service.nonce(), "snp")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(service.get_secret, [body] * 24))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 23


def refused(service: RunningTas, body: dict[str, Any], code: str) -> Reply:
    """Refused with the one text, and the log has the real reason."""
    answer = service.get_secret(body)
    assert answer.error == FAILED
    record = next(line for line in service.log() if line.get("request") == answer.headers["X-Request-Id"])
    assert (record["verdict"], record["code"]) == ("refused", code)
    return answer


def test_wrong_measurement(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    refused(service, provers[tee].body(service.nonce(), f"{tee}-other"), "verify.policy")


def test_key_that_is_not_the_bound_one(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    body = provers[tee].body(service.nonce(), tee)
    other = rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    refused(service, {**body, "wrapping-key": b64(other)}, "verify.binding")


def test_key_in_another_form_than_the_bound_one(service: RunningTas, provers: dict[str, Prover]) -> None:
    body = provers["snp"].body(service.nonce(), "snp")
    spki = provers["snp"].public(form=PublicFormat.SubjectPublicKeyInfo)
    refused(service, {**body, "wrapping-key": b64(spki)}, "verify.binding")


def test_nonce_bound_as_bytes_instead_of_text(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    nonce = service.nonce()
    bound = hashlib.sha512(bytes.fromhex(nonce) + provers[tee].public()).digest()
    refused(service, provers[tee].body(nonce, tee, bound=bound), "verify.binding")


def test_evidence_over_the_bare_nonce(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    nonce = service.nonce()
    refused(service, provers[tee].body(nonce, tee, bound=nonce.encode()), "verify.binding")


def test_evidence_for_another_nonce(service: RunningTas, provers: dict[str, Prover]) -> None:
    old = provers["snp"].body(service.nonce(), "snp")
    refused(service, {**old, "nonce": service.nonce()}, "verify.binding")


@pytest.mark.parametrize("prefix", ["policy:snp", "LIMITS:LIMITER/tas_ratelimit:/127.0.0.1/client.get_secret"])
def test_nonce_that_names_something_in_a_store(service: RunningTas, provers: dict[str, Prover], prefix: str) -> None:
    # Evidence made for that very string: the upstream service released the secret and deleted the policy.
    body = provers["snp"].body(prefix, "snp")
    assert [service.get_secret(body).error for _ in range(3)] == [SPENT] * 3
    assert '"policy_id": "snp"' in service.run("policy", "show", "snp")


def test_changed_evidence(service: RunningTas, provers: dict[str, Prover], tee: str) -> None:
    body = provers[tee].body(service.nonce(), tee)
    evidence = bytearray(base64.b64decode(body["tee-evidence"]))
    evidence[0x90] ^= 1
    answer = service.get_secret({**body, "tee-evidence": b64(bytes(evidence))})
    assert answer.error == FAILED


def test_debuggable_guest(service: RunningTas, pki_state: Path) -> None:
    for kind, options in (("snp", GuestOptions(debug=True)), ("tdx", DomainOptions(debug=True))):
        prover = Prover(machine(kind, pki_state, options))
        refused(service, prover.body(service.nonce(), kind), "verify.policy.floor")


def test_bound_key_that_is_no_usable_rsa_key(service: RunningTas, provers: dict[str, Prover]) -> None:
    short = rsa.RSAPublicNumbers(65537, (1 << 1023) + 1).public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    curve = ec.generate_private_key(ec.SECP256R1()).public_key()
    for key in (short, b"no key", curve.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)):
        answer = service.get_secret(provers["snp"].body(service.nonce(), "snp", key=key))
        assert answer.error == (404, "Secret retrieval failed")


def test_policy_without_its_secret(service: RunningTas, provers: dict[str, Prover]) -> None:
    answer = service.get_secret(provers["snp"].body(service.nonce(), "no-secret"))
    assert answer.error == (404, "Secret retrieval failed")


def test_log_holds_nothing_of_nonce_evidence_keys_and_secrets(
    service: RunningTas, provers: dict[str, Prover], tee: str
) -> None:
    nonces = [service.nonce() for _ in range(3)]
    prover = provers[tee]
    bodies = [
        prover.body(nonces[0], tee),
        prover.body(nonces[1], f"{tee}-other"),
        prover.body(nonces[2], tee, bound=bytes(64)),
    ]
    sent = [value for body in bodies for value in (body["nonce"], body["tee-evidence"], body["wrapping-key"])]
    for body in bodies:
        service.get_secret(body)
    text = service.log_file.read_text()
    keys = (service.state / "tls-key.pem").read_text().splitlines()[1:-1]
    secret = service.secret("disk")
    hidden = [*sent, *keys, service.api_key_file.read_text().strip(), secret.hex(), b64(secret), prover.public().hex()]
    assert [value for value in hidden if value in text] == []
    assert default_measurement().hex() not in text
