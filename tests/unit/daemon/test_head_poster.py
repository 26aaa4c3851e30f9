"""The fetcher's side of audit heads: a service that keeps none rests, failures are told, only key documents leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agent.core import headpost, keydoc
from agent.core.errors import (
    DeadlineExceeded,
    Denied,
    FormatError,
    ProtocolError,
    ServerError,
    TeeAgentError,
    TransportError,
)
from agent.daemon import heads
from agent.daemon.heads import FORGET_SECONDS, Poster
from agent.daemon.peers import Caller
from agent.transport.stdlib import Answer
from tests.support.heads import key, seq_of

SIGNER = Caller(1, 0, 0, (), "", "")


class Service:
    """What a poster posts to."""

    def __init__(self, *answers: bool | TeeAgentError) -> None:
        self.answers = list(answers)
        self.got: list[int] = []
        self.now = 0.0

    def post(self, document: bytes, deadline: Any) -> bool:
        assert 0 < deadline.remaining() <= heads.POST_SECONDS
        self.got.append(seq_of(document))
        answer = self.answers.pop(0)
        if isinstance(answer, TeeAgentError):
            raise answer
        return answer

    def ask(self, poster: Poster, seq: int) -> str:
        params = {"document": keydoc.build(key(seq).attachments).decode()}
        return str(asyncio.run(poster.send(params, SIGNER))["heads"])


def test_a_service_that_keeps_no_heads_is_not_asked_again_for_hours() -> None:
    service = Service(False, True, True)
    poster = Poster(service.post, lambda: service.now)
    assert [service.ask(poster, 1), service.ask(poster, 2)] == ["not-kept", "not-kept"]
    service.now = FORGET_SECONDS - 1
    assert service.ask(poster, 3) == "not-kept"
    assert service.got == [1]
    service.now = FORGET_SECONDS
    assert service.ask(poster, 4) == "kept"
    assert service.ask(poster, 5) == "kept"
    assert service.got == [1, 4, 5]
    assert poster.state.heads == "kept"


def test_a_failure_is_the_state_s_reason_and_the_caller_s_error() -> None:
    service = Service(Denied("no\npolicy " + "x" * 2000), DeadlineExceeded("30 s"), TransportError("gone"), True)
    poster = Poster(service.post)
    for outcome in ("refused", "failed", "failed"):
        with pytest.raises(TeeAgentError):
            service.ask(poster, 1)
        assert poster.state.heads == outcome
    assert poster.state.head_reason == "gone"
    assert service.ask(poster, 2) == "kept"
    assert poster.state.head_reason == ""


def test_reasons_are_one_line_and_short() -> None:
    service = Service(Denied("no\npolicy " + "x" * 2000))
    poster = Poster(service.post)
    with pytest.raises(Denied):
        service.ask(poster, 1)
    assert poster.state.head_reason.startswith("no policy x")
    assert len(poster.state.head_reason) == 1000


@pytest.mark.parametrize("document", ["{}", "", 5, None, "\ud800", '{"type":"tee-agent/key/v1"}'])
def test_only_key_documents_leave(document: Any) -> None:
    service = Service()
    with pytest.raises(FormatError):
        asyncio.run(Poster(service.post).send({"document": document}, SIGNER))
    assert service.got == []


def test_without_a_service_nothing_is_posted() -> None:
    assert Service().ask(Poster(None), 1) == ""


def response(status: int, body: bytes = b"{}") -> Answer:
    return Answer(status, {"content-type": "application/json"}, body)


def test_what_the_service_s_answers_mean() -> None:
    assert headpost.answer(response(200, b'{"audit_head":"kept"}'))
    assert not headpost.answer(response(404, b"<html>"))
    errors = {400: Denied, 401: Denied, 409: Denied, 415: ProtocolError, 301: ProtocolError, 429: ServerError}
    for status, kind in {**errors, 503: ServerError}.items():
        with pytest.raises(kind) as caught:
            headpost.answer(response(status))
        assert (caught.value.code == headpost.CONTRADICTED) is (status == 409)
    with pytest.raises(ProtocolError):
        headpost.answer(response(200, b"fine"))
    sent = headpost.request(b"{}")
    assert (sent.method, sent.path, sent.body) == ("POST", "/tee-agent/v1/audit-head", b"{}")
