"""What an ssh client's connection is bound to: one session with one server, or a forwarded agent; host keys that say so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.core.sshagent import Bind
from agent.core.sshwire import mpint, strings
from agent.daemon.sshbind import is_signed
from tests.support import ssh
from tests.support.mutations import flips
from tests.support.sshdesk import Desk, run, sign_file, sign_login

HOST, OTHER = ssh.Host(), ssh.Host()


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


def test_rsa_keys_that_cost_more_than_anybody_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may show any key: with the largest that OpenSSL takes, each connection would stop all for 8 ms."""
    asked: list[bytes] = []
    good = rsa_host("rsa-sha2-512", hashes.SHA512())

    def load(data: bytes) -> None:
        asked.append(data)
        raise ValueError

    monkeypatch.setattr("agent.daemon.sshbind.load_ssh_public_key", load)
    for exponent, modulus, looked_at in (
        (65537, (1 << 8192) - 1, True),
        ((1 << 32) - 1, (1 << 2048) - 1, True),
        ((1 << 40) + 1, (1 << 2048) - 1, False),
        ((1 << 2047) + 1, (1 << 2048) - 1, False),
        (65537, (1 << 8200) - 1, False),
    ):
        asked.clear()
        blob = strings(b"ssh-rsa") + mpint(exponent) + mpint(modulus)
        assert not is_signed(Bind(blob, ssh.SESSION, good.signature, False))
        assert bool(asked) is looked_at
