"""The body of get_secret, field by field: what is refused, with which words, and that the order is the wire's."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from agent.core.model import Tee
from tas import request
from tas.request import MAX_EVIDENCE, MAX_HINT, MAX_HINTS, MAX_KEY, Refused

NONCE = "0123456789abcdef" * 4
VERIFICATION = (400, "TEE verification failed")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def body(**changes: Any) -> dict[str, Any]:
    """A well-formed body; ``_`` in names stands for ``-``; None is a JSON null, ... leaves the field out."""
    fields: dict[str, Any] = {
        "tee-type": "amd-sev-snp",
        "nonce": NONCE,
        "tee-evidence": b64(b"evidence"),
        "policy-id": "web",
        "report-data-binding": True,
        "wrapping-key": b64(b"key"),
    }
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in fields.items() if value is not ...}


def parsed(**changes: Any) -> request.SecretRequest:
    fields = body(**changes)
    return request.parse(fields, *request.opening(fields))


def refusal(**changes: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as caught:
        parsed(**changes)
    return caught.value.status, caught.value.text


def test_well_formed() -> None:
    hint = b"certificate"
    wanted = parsed(endorsements={"certificates": [b64(hint)]}, something_else=[1, {}])
    assert (wanted.tee, wanted.nonce.text, wanted.policy_id) == (Tee.SNP, NONCE, "web")
    assert (wanted.evidence, wanted.wrapping_key, wanted.hints.certificates) == (b"evidence", b"key", (hint,))


def test_both_kinds() -> None:
    assert parsed(tee_type="intel-tdx").tee is Tee.TDX


def test_nonce_in_its_json_quotes() -> None:
    assert parsed(nonce=f'"{NONCE}"').nonce.text == NONCE


@pytest.mark.parametrize("value", [..., None, "", "snp", "AMD-SEV-SNP", 1, [], ["amd-sev-snp"], {}, True])
def test_tee_type(value: Any) -> None:
    assert refusal(tee_type=value) == (400, "Invalid or missing 'tee-type' field")


@pytest.mark.parametrize("value", [..., None, "", 0, [], {}])
def test_nonce_missing(value: Any) -> None:
    assert refusal(nonce=value) == (400, "Nonce is required")


@pytest.mark.parametrize(
    "value",
    [
        "policy:web",
        "LIMITS:LIMITER/tas_ratelimit:/127.0.0.1/client.get_secret/200/1/minute",
        NONCE.upper(),
        NONCE[:-1],
        NONCE + "0",
        NONCE + "\n",
        " " + NONCE,
        "\uff10" * 64,
        "*" * 64,
        1,
        True,
        [NONCE],
        {"nonce": NONCE},
    ],
)
def test_nonce_of_another_form(value: Any) -> None:
    assert refusal(nonce=value) == (401, "Invalid or expired nonce")


@pytest.mark.parametrize("value", [..., None, "", 7, [], {}])
def test_evidence_missing(value: Any) -> None:
    assert refusal(tee_evidence=value) == (400, "TEE evidence is required")


@pytest.mark.parametrize("value", [..., None, "", 7, [], {}])
def test_policy_id_missing(value: Any) -> None:
    assert refusal(policy_id=value) == (400, "Policy ID is required")


def test_old_body_that_names_the_key() -> None:
    assert refusal(policy_id=..., key_id="disk") == (400, "Policy ID is required")


@pytest.mark.parametrize("value", [..., None, False, 0, 1, "true", "false", "", [], [True], {}])
def test_binding_is_true_or_refused(value: Any) -> None:
    assert refusal(report_data_binding=value) == (400, "Report data binding is required")


@pytest.mark.parametrize("value", [..., None, ""])
def test_wrapping_key_missing(value: Any) -> None:
    assert refusal(wrapping_key=value) == (400, "Client's wrapping key is required")


@pytest.mark.parametrize("value", ["%%%%", "a", "YWJj\n", "YW Jj", "ä", 7, ["YWJj"], b64(bytes(MAX_KEY + 1))])
def test_wrapping_key_encoding(value: Any) -> None:
    assert refusal(wrapping_key=value) == (400, "Invalid encoding format for wrapping key")


@pytest.mark.parametrize("value", ["%%%%", "a", "YWJj\n", "ä", b64(bytes(MAX_EVIDENCE + 1))])
def test_evidence_encoding(value: Any) -> None:
    assert refusal(tee_evidence=value) == VERIFICATION


@pytest.mark.parametrize("value", ["policy:web", "web/../x", "a" * 129, "ä", "web\n"])
def test_policy_id_of_another_form(value: str) -> None:
    assert refusal(policy_id=value) == VERIFICATION


@pytest.mark.parametrize("value", [{}, {"gpu": []}, [], "x", False])
def test_component_evidence_is_refused(value: Any) -> None:
    assert refusal(component_evidence=value)[0] == 400


@pytest.mark.parametrize(
    "value",
    [
        [],
        "x",
        {"certificates": "x"},
        {"certificates": [7]},
        {"certificates": ["%"]},
        {"certificates": [""]},
        {"certificates": [b64(b"x")] * (MAX_HINTS + 1)},
        {"certificates": [b64(bytes(MAX_HINT + 1))]},
    ],
)
def test_endorsements_of_another_form(value: Any) -> None:
    assert refusal(endorsements=value) == (400, "Invalid endorsements")


def test_bounds_are_inclusive() -> None:
    hints = {"certificates": [b64(bytes(MAX_HINT))] * MAX_HINTS}
    wanted = parsed(tee_evidence=b64(bytes(MAX_EVIDENCE)), wrapping_key=b64(bytes(MAX_KEY)), endorsements=hints)
    assert (len(wanted.evidence), len(wanted.wrapping_key), len(wanted.hints.certificates)) == (
        MAX_EVIDENCE,
        MAX_KEY,
        MAX_HINTS,
    )


def test_order_of_complaints() -> None:
    fields = body()
    order = ["tee-type", "nonce", "tee-evidence", "policy-id", "report-data-binding", "wrapping-key"]
    said = []
    for count in range(len(order)):
        left = {name: value for name, value in fields.items() if name in order[:count]}
        with pytest.raises(Refused) as caught:
            request.parse(left, *request.opening(left))
        said.append(caught.value.text)
    assert said == [
        "Invalid or missing 'tee-type' field",
        "Nonce is required",
        "TEE evidence is required",
        "Policy ID is required",
        "Report data binding is required",
        "Client's wrapping key is required",
    ]
