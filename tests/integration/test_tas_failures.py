"""Every row of the protocol's failure table against the real server: status, text, and whether the nonce is spent."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sim.export import export
from sim.psp import GuestOptions, default_measurement
from sim.qe import DomainOptions, default_register
from tests.support.simulator import machine, pki_state
from tests.support.tas import Prover, Reply, RunningTas, b64, running_tas, snp_policy, tdx_policy

__all__ = ["pki_state"]

FAILED = (400, "TEE verification failed")
SPENT = (401, "Invalid or expired nonce")
MALFORMED = (400, "The browser (or proxy) sent a request that this server could not understand.")
NOT_JSON = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."
REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
RULES = {name: default_register(name).hex() for name in REGISTERS}
SECRET_ROUTE = "/kb/v0/get_secret"


@pytest.fixture(scope="module")
def provers(pki_state: Path) -> dict[str, Prover]:
    return {tee: Prover(machine(tee, pki_state)) for tee in ("snp", "tdx")}


@pytest.fixture(scope="module")
def service(provers: dict[str, Prover], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTas]:
    folder = tmp_path_factory.mktemp("tas")
    for tee, prover in provers.items():
        export(prover.machine, folder / "endorsements" / tee)
    roots = [folder / "endorsements" / tee / "root.pem" for tee in provers]
    words = ("--rate-limit", "0")
    with running_tas(
        folder / "state", trust_roots=roots, endorsements=folder / "endorsements", arguments=words
    ) as running:
        running.create_secret("disk")
        running.put_policy(snp_policy("snp", "disk", default_measurement().hex()))
        running.put_policy(snp_policy("snp-other", "disk", "ab" * 48))
        running.put_policy(tdx_policy("tdx", "disk", RULES))
        running.put_policy(tdx_policy("tdx-other", "disk", {**RULES, "rtmr1": "ab" * 48}))
        running.put_policy(snp_policy("no-secret", "nothing", default_measurement().hex()))
        yield running


@pytest.fixture(params=["snp", "tdx"])
def tee(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def spent(service: RunningTas, prover: Prover, nonce: str, policy_id: str) -> bool:
    """Whether a sound request with this nonce comes too late."""
    answer = service.get_secret(prover.body(nonce, policy_id))
    assert answer.status == 200 or answer.error == SPENT
    return answer.status == 401


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


@pytest.mark.parametrize("key", [True, False], ids=["key", "no key"])
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
def test_malformed_json_is_400_even_without_a_key(service: RunningTas, raw: bytes, key: bool) -> None:
    headers = {"Content-Type": "application/json"} | ({} if key else {"X-API-KEY": ""})
    assert service.request("POST", SECRET_ROUTE, raw=raw, headers=headers).error == MALFORMED


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


# Wrong afterwards: the nonce is spent


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
    for tee, options in (("snp", GuestOptions(debug=True)), ("tdx", DomainOptions(debug=True))):
        prover = Prover(machine(tee, pki_state, options))
        refused(service, prover.body(service.nonce(), tee), "verify.policy.floor")


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
