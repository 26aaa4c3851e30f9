"""One ssh client's requests: what is listed and signed, and for whom. No sockets, no hardware."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from agent.core.access import Decision, Rules
from agent.core.algorithm import ALGORITHMS
from agent.core.sshwire import strings
from agent.daemon.named import NamedKey
from agent.daemon.sshapi import comment
from tests.support import ssh
from tests.support.access import text as rules_text
from tests.support.sshdesk import ME, Desk, encoded, is_signature, run, sign_file, sign_login

HOST = ssh.Host()


@pytest.mark.parametrize("algorithm", ssh.ALGORITHMS)
def test_what_is_signed_is_what_was_asked(algorithm: str) -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key(algorithm=algorithm)
        file, login = await desk.ask(sign_file(key), sign_login(key))
        assert is_signature(file, key, ssh.file())
        assert is_signature(login, key, ssh.login(encoded(key)))
        assert not is_signature(file, key, ssh.file("git"))
        assert desk.told.signatures == [key.attachments.key_sha256.hex()] * 2
        assert not desk.denied

    run(body)


def test_the_list_and_its_order() -> None:
    async def body(desk: Desk) -> None:
        first, second = await desk.key("b"), await desk.key("a", "ECDSA-P256")
        await desk.key("c", use="jws")
        new = await desk.world.keys.rotate("uid-0", "b", timedelta(seconds=100))
        (answer,) = await desk.ask(ssh.listing())
        assert ssh.listed(answer) == [(encoded(key).blob, comment(key)) for key in (second, new, first)]
        assert comment(new) == f"uid-0/b#2 {new.attachments.key_sha256.hex()}"
        assert (await desk.ask(sign_file(first)))[0][0] == 14
        desk.world.at += timedelta(seconds=101)
        (answer,) = await desk.ask(ssh.listing())
        assert [name.partition(" ")[0] for _, name in ssh.listed(answer)] == ["uid-0/a#1", "uid-0/b#2"]
        assert await desk.ask(sign_file(first)) == [b"\5"]

    run(body)


def test_keys_for_anything_else_are_not_there() -> None:
    async def body(desk: Desk) -> None:
        for use in ("bundle", "raw", "jws", "cose", "eat"):
            key = await desk.key(use, use=use)
            assert await desk.ask(sign_file(key), sign_login(key)) == [b"\5", b"\5"]
        strange = await desk.key("raw-k", "ECDSA-secp256k1", "raw")
        assert strange.use == "raw"
        (answer,) = await desk.ask(ssh.listing())
        assert ssh.listed(answer) == []
        assert not desk.told.signatures

    run(body)


def test_evidence_in_force_before_a_signature() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        before = desk.world.keys.find("uid-0", "a").statement
        desk.world.at += timedelta(hours=25)
        assert (await desk.ask(sign_file(key)))[0][0] == 14
        assert desk.world.keys.find("uid-0", "a").statement.created > before.expires

    run(body)


RULES = Rules.parse(
    {
        "10.toml": rules_text(
            {
                "name": "git",
                "effect": "allow",
                "who": {"user": str(ME)},
                "operations": ["sign"],
                "keys": ["uid-0/a"],
                "uses": ["ssh"],
                "formats": ["ssh"],
                "contexts": ["git", "ssh-*"],
            },
            {
                "name": "list",
                "effect": "allow",
                "who": {"user": str(ME)},
                "operations": ["keys.list"],
                "keys": ["uid-0/a"],
            },
            {
                "name": "rest",
                "effect": "deny",
                "who": {"user": str(ME)},
                "operations": ["sign", "keys.list"],
                "keys": ["*"],
            },
        )
    }
)


def test_the_policy_decides_by_key_and_context() -> None:
    async def body(desk: Desk) -> None:
        key, other = await desk.key(), await desk.key("b")
        listed, git, login, file, reserved, strange = await desk.ask(
            ssh.listing(),
            sign_file(key, "git"),
            sign_login(key),
            sign_file(key),
            ssh.signing(encoded(key).blob, b"SSHSIG" + strings(b"ssh-auth", b"", b"sha512", bytes(64))),
            sign_file(other, "git"),
        )
        assert [name.partition("#")[0] for _, name in ssh.listed(listed)] == ["uid-0/a"]
        assert (git[0], login[0]) == (14, 14)
        assert (file, reserved, strange) == (b"\5", b"\5", b"\5")
        wishes = [(wish.key, wish.use, wish.format, wish.context, decision.rule) for wish, decision in desk.denied]
        assert wishes == [
            ("uid-0/a", "ssh", "ssh", "file", "rest"),
            ("uid-0/a", "ssh", "ssh", "", "form"),
            ("uid-0/b", "ssh", "ssh", "git", "rest"),
        ]

    run(body, RULES)


def test_a_list_that_is_refused() -> None:
    rules = {"name": "no", "effect": "deny", "who": {"user": str(ME)}, "operations": ["keys.list"], "keys": ["*"]}
    some = {"name": "some", "effect": "allow", "who": {"user": str(ME)}, "operations": ["status"]}

    async def body(desk: Desk) -> None:
        await desk.key()
        assert await desk.ask(ssh.listing()) == [b"\5"]
        assert [wish.operation for wish, _ in desk.denied] == ["keys.list"]

    run(body, Rules.parse({"10.toml": rules_text(rules, some)}))


def test_who_is_not_permitted_is_told_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rules, "admits", lambda *_: False)
    monkeypatch.setattr(Rules, "decide", lambda *_: Decision(False, "default", "no rule", "uid-0"))

    async def body(desk: Desk) -> None:
        key = await desk.key()
        for frame in (ssh.listing(), sign_file(key), ssh.extension(b"query"), HOST.bind(), ssh.framed(b"\xff")):
            with desk.session() as session:
                assert await session.answer(frame[4:]) == b"\0\0\0\1\5"
                assert session.over
        asked = [(wish.operation, wish.key) for wish, _ in desk.denied]
        assert asked == [("keys.list", ""), ("sign", ""), *[("keys.list", "")] * 3]

    run(body)


def test_a_client_that_has_exited() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        with desk.session() as session:
            session._guest.peer.close()
            assert await session.answer(sign_file(key)[4:]) == b"\0\0\0\1\5"
            assert session.over
        assert not desk.told.signatures

    run(body)


def test_other_bytes_are_told_and_not_signed() -> None:
    async def body(desk: Desk) -> None:
        key, other = await desk.key(), await desk.key("b")
        for data in (b"", bytes(64), ssh.login(encoded(other)), ssh.file() + b"\0"):
            assert await desk.ask(ssh.signing(encoded(key).blob, data)) == [b"\5"]
        assert [(wish.key, decision.rule) for wish, decision in desk.denied] == [("uid-0/a", "form")] * 4
        assert not desk.told.signatures

    run(body)


def test_extensions() -> None:
    async def body(desk: Desk) -> None:
        known = b"\x1d" + strings(b"query", b"session-bind@openssh.com")
        assert await desk.ask(ssh.extension(b"query"), ssh.extension(b"other@example")) == [known, b"\5"]

    run(body)


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()

        async def broken(_: NamedKey) -> NamedKey:
            raise ZeroDivisionError

        monkeypatch.setattr(desk.world.keys, "current", broken)
        with pytest.raises(ZeroDivisionError):
            await desk.ask(sign_file(key))

    run(body)


def test_of_two_at_a_time_both_are_answered() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        found = await asyncio.gather(*(desk.ask(sign_file(key), ssh.listing()) for _ in range(20)))
        assert {answers[0][0] for answers in found} == {14}

    run(body)


def test_algorithms_are_those_of_ssh() -> None:
    assert set(ALGORITHMS) - set(ssh.ALGORITHMS) == {"ECDSA-secp256k1"}
