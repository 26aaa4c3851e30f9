"""One ssh client's requests: what is listed and signed, for whom, on which connection. No sockets, no hardware."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.access import Decision, Members, Rules, Wish
from agent.core.algorithm import ALGORITHMS
from agent.core.sshagent import Bind
from agent.core.sshwire import PublicKey, mpint, strings
from agent.daemon.admission import Guest
from agent.daemon.guard import Guard
from agent.daemon.journal import Reports
from agent.daemon.named import NamedKey
from agent.daemon.peers import Caller, identify
from agent.daemon.sshapi import Session, SshApi, comment
from agent.daemon.sshbind import is_signed
from agent.verify.signature import verifies
from tests.support import named, ssh
from tests.support.access import text as rules_text
from tests.support.mutations import flips

HOST, OTHER = ssh.Host(), ssh.Host()
ME = os.getuid()


class Told:
    """An audit log that is a list, of signatures only: ssh clients change no keys."""

    def __init__(self) -> None:
        self.signatures: list[str] = []

    def signed(self, caller: Caller, key_id: str, count: int = 1) -> None:
        assert caller.uid == ME
        self.signatures += [key_id] * count


class Desk:
    """Sessions over keys that need no hardware."""

    def __init__(self, world: named.World, rules: Rules) -> None:
        self.world = world
        self.denied: list[tuple[Wish, Decision]] = []
        self.told = Told()
        self.guard = Guard(lambda: rules, lambda _, wish, decision: self.denied.append((wish, decision)))
        self.api = SshApi(world.keys, self.guard, Reports(cast(Any, self.told)))

    async def key(
        self, name: str = "a", algorithm: str = "Ed25519", use: str = "ssh", namespace: str = "uid-0"
    ) -> NamedKey:
        return await self.world.keys.create(namespace, name, algorithm, use)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session with this process as its client."""
        here, there = socket.socketpair()
        with here, there, identify(here) as peer:
            permitted = self.guard.permits(peer.caller)
            yield Session(self.api, Guest(peer, permitted=permitted, left=lambda _: None))

    async def ask(self, *frames: bytes) -> list[bytes]:
        """The answers in one session, without their lengths."""
        with self.session() as session:
            return [(await session.answer(frame[4:]))[4:] for frame in frames]


def run(body: Callable[[Desk], Coroutine[Any, Any, None]], rules: Rules | None = None) -> None:
    async def main(world: named.World) -> None:
        await body(Desk(world, rules or Rules(members=Members(frozenset({ME})))))

    named.run(main)


def encoded(key: NamedKey) -> PublicKey:
    return PublicKey.of(key.attachments.spki)


def sign_file(key: NamedKey, namespace: str = "file") -> bytes:
    return ssh.signing(encoded(key).blob, ssh.file(namespace))


def sign_login(key: NamedKey, **more: Any) -> bytes:
    return ssh.signing(encoded(key).blob, ssh.login(encoded(key), **more))


def is_signature(answer: bytes, key: NamedKey, data: bytes) -> bool:
    assert answer[0] == 14
    made = encoded(key).unwrap(answer[5:])
    assert len(answer) == 5 + int.from_bytes(answer[1:5], "big")
    return verifies(key.algorithm, key.attachments.spki, made, data)


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


# Sessions and servers.


def test_a_bound_connection_signs_for_its_server_only() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        hostbound = {"method": ssh.HOSTBOUND, "host_key": HOST.blob}
        bound, *rest = await desk.ask(
            HOST.bind(),
            sign_login(key),
            sign_login(key, **hostbound),
            sign_login(key, session=bytes(32)),
            sign_login(key, **hostbound | {"host_key": OTHER.blob}),
            sign_login(key, session=bytes(32), **hostbound),
            sign_file(key),
        )
        assert bound == b"\6"
        assert [answer[0] for answer in rest] == [14, 14, 5, 5, 5, 14]
        assert [decision.rule for _, decision in desk.denied] == ["form"] * 3

    run(body)


def test_nothing_through_a_forwarded_agent() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        for bind, said in (
            (HOST.bind(forwarding=True), 6),
            (HOST.bind(forwarding=True, signature=strings(b"ssh-ed25519", bytes(64))), 28),
            (ssh.extension(b"session-bind@openssh.com"), 28),
            (ssh.extension(b"session-bind@openssh.com", b"\0\0"), 28),
        ):
            bound, listed, *rest = await desk.ask(
                bind, ssh.listing(), sign_file(key), sign_login(key), HOST.bind(), sign_file(key)
            )
            assert (bound[0], ssh.listed(listed)) == (said, [])
            assert [answer[0] for answer in rest] == [5, 5, 28, 5]
        assert "forwarded" in desk.denied[-1][1].reason
        assert not desk.told.signatures

    run(body)


def test_a_connection_is_bound_once() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        for second in (HOST.bind(), OTHER.bind(bytes(32)), HOST.bind(forwarding=True)):
            answers = await desk.ask(HOST.bind(), second, sign_login(key), sign_file(key))
            assert [answer[0] for answer in answers] == [6, 28, 5, 5]

    run(body)


def test_a_bind_that_is_not_proven_narrows_all_the_same() -> None:
    async def body(desk: Desk) -> None:
        key = await desk.key()
        bind = HOST.bind(signature=strings(b"ssh-ed25519", bytes(64)))
        answers = await desk.ask(bind, sign_login(key), sign_login(key, session=bytes(32)))
        assert [answer[0] for answer in answers] == [28, 14, 5]

    run(body)


def test_extensions() -> None:
    async def body(desk: Desk) -> None:
        known = b"\x1d" + strings(b"query", b"session-bind@openssh.com")
        assert await desk.ask(ssh.extension(b"query"), ssh.extension(b"other@example")) == [known, b"\5"]

    run(body)


def rsa_host(name: str, digest: hashes.HashAlgorithm) -> Bind:
    key = rsa.generate_private_key(65537, 2048)
    blob = strings(b"ssh-rsa") + mpint(65537) + mpint(key.public_key().public_numbers().n)
    return Bind(blob, ssh.SESSION, strings(name.encode(), key.sign(ssh.SESSION, padding.PKCS1v15(), digest)), False)


def ecdsa_host(curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> Bind:
    key = ec.generate_private_key(curve)
    name = f"nistp{curve.key_size}".encode()
    kind = b"ecdsa-sha2-" + name
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    numbers = b"".join(map(mpint, decode_dss_signature(key.sign(ssh.SESSION, ec.ECDSA(digest)))))
    return Bind(strings(kind, name, point), ssh.SESSION, strings(kind, numbers), False)


def ed25519_host() -> Bind:
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Bind(strings(b"ssh-ed25519", raw), ssh.SESSION, strings(b"ssh-ed25519", key.sign(ssh.SESSION)), False)


HOSTS: dict[str, Callable[[], Bind]] = {
    "ed25519": ed25519_host,
    "p256": lambda: ecdsa_host(ec.SECP256R1(), hashes.SHA256()),
    "p384": lambda: ecdsa_host(ec.SECP384R1(), hashes.SHA384()),
    "p521": lambda: ecdsa_host(ec.SECP521R1(), hashes.SHA512()),
    "rsa-256": lambda: rsa_host("rsa-sha2-256", hashes.SHA256()),
    "rsa-512": lambda: rsa_host("rsa-sha2-512", hashes.SHA512()),
}


@pytest.mark.parametrize("name", HOSTS)
def test_host_keys(name: str) -> None:
    good = HOSTS[name]()
    assert is_signed(good)
    assert not is_signed(Bind(good.host_key, bytes(32), good.signature, False))
    for other, make in HOSTS.items():
        if other != name:
            assert not is_signed(Bind(good.host_key, ssh.SESSION, make().signature, False))
    for _, changed in flips(good.signature, range(0, 8 * len(good.signature), 7)):
        assert not is_signed(Bind(good.host_key, ssh.SESSION, changed, False))
    for _, changed in flips(good.host_key, range(0, 8 * len(good.host_key), 7)):
        assert not is_signed(Bind(changed, ssh.SESSION, good.signature, False))


def test_host_keys_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not even parsed."""
    sha1 = rsa_host("ssh-rsa", hashes.SHA256())
    assert not is_signed(sha1)
    monkeypatch.delattr("agent.daemon.sshbind.load_ssh_public_key")
    for kind in (b"ssh-dss", b"sk-ssh-ed25519@openssh.com", b"ssh-ed25519-cert-v01@openssh.com", b"", b"\xff"):
        assert not is_signed(Bind(strings(kind, bytes(32)), ssh.SESSION, strings(kind, bytes(64)), False))


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
