"""Audit heads on their way: only the newest waits, named keys are paced, refusals are told, an unwilling service rests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from agent.core import headpost, keydoc
from agent.core.bundle_parts import Attachments
from agent.core.errors import Denied, FormatError, ProtocolError, ServerError, TeeAgentError, TransportError
from agent.core.model import Endorsements, Tee
from agent.core.statement import AuditHead
from agent.daemon import heads
from agent.daemon.heads import FORGET_SECONDS, NAMED_SECONDS, Poster, Sender
from agent.daemon.keys import Attested
from agent.daemon.peers import Caller
from agent.transport.stdlib import Answer
from tests.support.bundles import statement

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
SPKI = bytes.fromhex("302a300506032b6570032100") + bytes(range(32))
_sleep = asyncio.sleep
SIGNER = Caller(1, 0, 0, (), "", "")


def key(seq: int) -> Attested:
    made = replace(statement(AT), audit=AuditHead(seq, f"{seq:02x}" * 32))
    return Attested(Attachments(Tee.SNP, b"report", Endorsements((b"c",), (), b"", b""), SPKI, made), AT, "sim")


def seq_of(document: bytes) -> int:
    head = keydoc.decode(document).statement.audit
    assert head
    return head.seq


class World:
    """A sender, what it sent, and what it said of that. ``answers`` are used up; then all is kept."""

    def __init__(self, *answers: str | TeeAgentError) -> None:
        self.answers = list(answers)
        self.sent: list[int] = []
        self.logged: list[str] = []
        self.told: list[tuple[str, str, Any]] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        self.sender = Sender(self._send, lambda: self.now)

    def _send(self, document: bytes) -> str:
        self.sent.append(seq_of(document))
        answer = self.answers.pop(0) if self.answers else heads.KEPT
        if isinstance(answer, TeeAgentError):
            raise answer
        return answer

    async def tell(self, kind: str, severity: str, **fields: Any) -> None:
        self.told.append((kind, severity, fields["record"]))

    def has_sent(self, count: int) -> bool:
        return len(self.sent) == count

    def run(self, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            work = asyncio.create_task(self.sender.run(lambda _, error: self.logged.append(error.code), self.tell))
            await body()
            work.cancel()

        asyncio.run(main())


async def until(true: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if true():
            return
        await _sleep(0.0005)
    raise AssertionError("it never came true")


def test_each_new_key_of_its_own_is_sent_and_told() -> None:
    world = World()

    async def body() -> None:
        world.sender.own(key(3))
        await until(lambda: len(world.told) == 1)
        world.sender.own(key(9))
        await until(lambda: len(world.told) == 2)

    world.run(body)
    assert world.sent == [3, 9]
    assert world.told == [("head.kept", "info", 3), ("head.kept", "info", 9)]
    assert world.logged == []


def test_of_named_keys_the_newest_is_sent_when_its_time_has_come() -> None:
    world = World()

    async def body() -> None:
        world.sender.named(key(1))
        await until(lambda: world.sent == [1])
        world.sender.named(key(2))
        world.sender.named(key(3))
        world.sender.own(key(4))
        await until(lambda: world.sent == [1, 4])
        world.now += NAMED_SECONDS
        world.sender.own(key(5))
        await until(lambda: world.sent == [1, 4, 5, 3])

    world.run(body)


def test_waiting_for_the_time_is_no_waiting_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "NAMED_SECONDS", 0.01)
    world = World()
    world.sender = Sender(world._send)

    async def body() -> None:
        world.sender.named(key(1))
        await until(lambda: world.sent == [1])
        world.sender.named(key(2))
        await until(lambda: world.sent == [1, 2])

    world.run(body)


def test_what_failed_is_tried_again_unless_there_is_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = TransportError("gone")
    world = World(gone, ServerError("busy"), gone, heads.KEPT, gone)
    pauses: list[float] = []
    go_on = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await go_on.wait()
        go_on.clear()

    async def body() -> None:
        monkeypatch.setattr("agent.daemon.heads.asyncio.sleep", pause)
        world.sender.own(key(3))
        await until(lambda: len(pauses) == 1)
        go_on.set()
        await until(lambda: len(pauses) == 2)
        world.sender.own(key(9))
        go_on.set()
        await until(lambda: len(pauses) == 3)
        go_on.set()
        await until(lambda: len(world.told) == 1)
        world.sender.own(key(10))
        await until(lambda: len(pauses) == 4)
        monkeypatch.undo()

    world.run(body)
    assert world.sent == [3, 3, 9, 9, 10]
    assert pauses == [30.0, 60.0, 120.0, 30.0]
    assert world.logged == []


def test_a_newer_one_that_came_while_an_older_one_failed_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "RETRY_SECONDS", 0.001)
    world, gate = World(TransportError("gone")), threading.Event()
    send = world._send

    def slow(document: bytes) -> str:
        try:
            return send(document)
        finally:
            assert gate.wait(60)

    world.sender = Sender(slow, lambda: world.now)

    async def body() -> None:
        world.sender.own(key(3))
        await until(lambda: world.sent == [3])
        world.sender.own(key(9))
        gate.set()
        await until(lambda: world.told == [("head.kept", "info", 9)])

    world.run(body)
    assert world.sent == [3, 9]


def test_a_refusal_is_logged_and_a_contradiction_is_an_alert() -> None:
    world = World(
        Denied("no policy", code="denied"),
        Denied("another head", code=headpost.CONTRADICTED),
        ProtocolError("not http"),
        heads.NOT_KEPT,
        "",
    )

    async def body() -> None:
        for seq in range(1, 7):
            world.sender.own(key(seq))
            await until(partial(world.has_sent, seq))
        await until(lambda: len(world.told) == 2)

    world.run(body)
    assert world.logged == ["denied", headpost.CONTRADICTED, "protocol"]
    assert world.told == [("head.contradicted", "alert", 2), ("head.kept", "info", 6)]


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
    service = Service(Denied("no\npolicy " + "x" * 2000), TransportError("gone"), True)
    poster = Poster(service.post)
    for outcome in ("refused", "failed"):
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
