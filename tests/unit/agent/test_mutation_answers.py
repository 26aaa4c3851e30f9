"""The attestation service's answers, and what is asked of it: each flipped bit, each length.

A changed answer gives the same secret or none; a changed request is refused in the wire's own words or says the same.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from agent.core.errors import ProtocolError, SecretError, TeeAgentError
from agent.core.exchange import Attempt, version_answer
from agent.transport.stdlib import Answer
from agent.unseal import WrappingKey
from tas import request, web
from tests.support.fake_tas import wrap
from tests.support.mutations import cuts, flips

KEY, SECRET, NONCE = WrappingKey(), bytes(range(32)), "5a" * 32


def answered(body: bytes) -> Any:
    return Answer(200, {}, body)


def nonce(body: bytes) -> object:
    return Attempt("disk").nonce_answer(answered(body)).text


def opened(body: bytes) -> object:
    with KEY.unseal(Attempt("disk").secret_answer(answered(body))) as secret:
        return bytes(secret.reveal())


def encoded(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def outcomes(read: Callable[[bytes], object], changed: bytes) -> object:
    try:
        return read(changed)
    except (ProtocolError, SecretError) as error:
        return error.code


@pytest.mark.parametrize("algorithm", ["AES-GCM", "AES-KWP"])
def test_every_flipped_bit_of_a_released_secret_gives_the_secret_or_none(algorithm: str) -> None:
    data = encoded({"secret_key": wrap(KEY.public_der, SECRET, algorithm)})
    assert opened(data) == SECRET
    wrapped = data.index(b'"wrapped_key":"') + 15
    # A wrapped key is all or nothing: each of its bytes costs an RSA decryption, so one bit of each is tried.
    key_bits = range(8 * wrapped, 8 * (wrapped + 512))
    places = [bit for bit in range(8 * len(data)) if bit not in key_bits or bit % 8 == bit // 8 % 8]
    found = {outcomes(opened, changed) for _, changed in flips(data, places)}
    assert all(isinstance(one, str) or one == SECRET for one in found)
    assert found >= {"protocol.answer", "secret.tampered", "secret.wrapped-key"}


def test_every_cut_of_a_released_secret_is_refused() -> None:
    data = encoded({"secret_key": wrap(KEY.public_der, SECRET)})
    assert {outcomes(opened, cut) for _, cut in cuts(data)} == {"protocol.answer"}


def test_every_flipped_bit_and_cut_of_a_nonce_is_another_nonce_or_refused() -> None:
    data = encoded({"nonce": NONCE})
    for _, changed in (*flips(data), *cuts(data)):
        found = outcomes(nonce, changed)
        assert found != NONCE
        assert found in ("protocol.answer", "protocol.nonce") or len(str(found)) == 64


def test_every_flipped_bit_and_cut_of_a_version_is_text_or_refused() -> None:
    data = encoded({"version": "1.2.3"})
    for _, changed in (*flips(data), *cuts(data)):
        assert str(outcomes(lambda body: version_answer(answered(body)), changed)).isprintable()


REQUEST = {
    "tee-type": "amd-sev-snp",
    "nonce": NONCE,
    "tee-evidence": base64.b64encode(bytes(60)).decode(),
    "policy-id": "disk",
    "report-data-binding": True,
    "wrapping-key": base64.b64encode(bytes(30)).decode(),
    "endorsements": {"certificates": [base64.b64encode(b"\x30\x00\x00").decode()]},
}


def parsed(body: bytes) -> request.SecretRequest:
    found = web.parse_json("application/json", body)
    return request.parse(found, *request.opening(found))


def test_every_flipped_bit_and_cut_of_a_request_is_refused_or_another_request() -> None:
    data = encoded(REQUEST)
    sound = parsed(data)
    unchanged = 0
    for _, changed in (*flips(data), *cuts(data)):
        try:
            found = parsed(changed)
        except request.Refused as error:
            assert 400 <= error.status <= 415
            assert error.text
            continue
        except TeeAgentError as error:
            pytest.fail(f"{type(error).__name__} has no place on the wire")
        if found == sound:
            unchanged += 1
            assert found.hints == sound.hints
    # The unused bits of a base64 group's last letter are the only spelling that is free here.
    assert unchanged <= 16
