"""What a key for ssh signs, and that nothing else passes for it: every cut, every bit, and what other protocols sign."""

from __future__ import annotations

import base64
import hashlib
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import canonical, sshsig
from agent.core.algorithm import ALGORITHMS, ED25519
from agent.core.errors import FormatError, Oversized
from agent.core.sshsig import FileSignature, Login, SshSig, decode, purpose
from agent.core.sshwire import PublicKey, strings
from agent.daemon.privatekey import PrivateKey
from tests.support import ssh
from tests.support.mutations import cuts, flips

PRIVATE = PrivateKey(ALGORITHMS[ED25519])
KEY = PublicKey.of(PRIVATE.spki)
OTHER = PublicKey.of(PrivateKey(ALGORITHMS[ED25519]).spki)
SIGNED = FileSignature("file", "sha512", bytes(64))
ARMORED = sshsig.build(KEY, SIGNED, PRIVATE.sign(SIGNED.encode()))


def refused(data: bytes) -> bool:
    try:
        purpose(data, KEY)
    except FormatError:
        return True
    return False


@pytest.mark.parametrize("name", sshsig.HASHES)
def test_file_signatures(name: str) -> None:
    digest = hashlib.new(name, b"x").digest()
    found = purpose(FileSignature("git", name, digest).encode(), KEY)
    assert found == FileSignature("git", name, digest)
    assert found.context == "git"


# OpenSSH's PROTOCOL.sshsig, section 3, by hand.
def test_the_bytes_that_a_file_signature_is_over() -> None:
    expected = b"SSHSIG" + strings(b"git", b"", b"sha256", bytes(32))
    assert FileSignature("git", "sha256", bytes(32)).encode() == expected


def test_logins() -> None:
    found = purpose(ssh.login(KEY), KEY)
    assert found == Login(ssh.SESSION, "deploy", None)
    assert found.context == sshsig.LOGIN
    bound = purpose(ssh.login(KEY, method=ssh.HOSTBOUND, host_key=b"host"), KEY)
    assert bound == Login(ssh.SESSION, "deploy", b"host")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"anything at all",
        bytes(32),
        b"SSHSIG",
        ssh.login(OTHER),
        ssh.login(KEY, service=b"ssh-userauth"),
        ssh.login(KEY, method=b"password"),
        ssh.login(KEY, method=b"hostbased"),
        ssh.login(KEY, method=ssh.HOSTBOUND),
        ssh.login(KEY, method=ssh.HOSTBOUND, host_key=bytes(8193)),
        ssh.login(KEY, host_key=b"host"),
        ssh.login(KEY, flag=b"\0"),
        ssh.login(KEY, flag=b"\2"),
        ssh.login(KEY, user=b""),
        ssh.login(KEY, user=b"a\nb"),
        ssh.login(KEY, user=b"x" * 257),
        ssh.login(KEY, session=bytes(19)),
        ssh.login(KEY, session=bytes(65)),
        ssh.login(KEY).replace(b"\x32", b"\x33", 1),
        ssh.login(replace(KEY, kind="ssh-rsa")),
        ssh.login(KEY) + b"\0",
        ssh.file() + b"\0",
        b"SSHSIG" + strings(b"", b"", b"sha512", bytes(64)),
        b"SSHSIG" + strings(b"file", b"x", b"sha512", bytes(64)),
        b"SSHSIG" + strings(b"file", b"", b"sha1", bytes(20)),
        b"SSHSIG" + strings(b"file", b"", b"sha512", bytes(32)),
        b"SSHSIG" + strings(b"file", b"", b"sha256", bytes(64)),
        b"SSHSIG" + strings(b"x" * 257, b"", b"sha512", bytes(64)),
        b"SSHSIG" + strings(b"ssh-auth", b"", b"sha512", bytes(64)),
        b"\0\0\0\1" + ssh.file(),
        # What others sign: a TLS 1.3 server, an X.509 certificate, a JWS, a COSE_Sign1, a bundle.
        b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + bytes(32),
        bytes.fromhex("3082010030819b"),
        b"eyJhbGciOiJFZERTQSJ9.e30",
        b"\x84jSignature1\x40\x40\x40",
        b"tee-agent/bundle/v1\0",
    ],
)
def test_nothing_else_is_signed(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize("data", [ssh.file(), ssh.login(KEY), ssh.login(KEY, method=ssh.HOSTBOUND, host_key=b"host")])
def test_every_cut_and_every_bit(data: bytes) -> None:
    assert all(refused(short) for _, short in cuts(data))
    for _, changed in flips(data):
        if not refused(changed):
            found = purpose(changed, KEY)  # another name, digest, session or host key: the same purpose, other contents
            assert type(found) is type(purpose(data, KEY))
            assert found != purpose(data, KEY)


@pytest.mark.parametrize("context", ["", "x" * 257, "a\nb", "\u202e", "\ud800", sshsig.LOGIN])
def test_namespaces_that_none_may_have(context: str) -> None:
    with pytest.raises(FormatError):
        FileSignature(context, "sha512", bytes(64)).encode()


@given(st.text(max_size=100))
def test_any_text_is_a_namespace(context: str) -> None:
    fine = bool(context) and context != sshsig.LOGIN and canonical.is_text(context, 256)
    try:
        found = purpose(FileSignature(context, "sha256", bytes(32)).encode(), KEY)
    except FormatError:
        assert not fine
    else:
        assert fine
        assert found.context == context


@given(st.binary(max_size=400))
def test_other_bytes_are_refused(data: bytes) -> None:
    assert refused(data)


def test_armored_there_and_back() -> None:
    assert ARMORED.startswith(b"-----BEGIN SSH SIGNATURE-----\n")
    assert ARMORED.endswith(b"\n-----END SSH SIGNATURE-----\n")
    assert max(map(len, ARMORED.splitlines())) == 70
    found = decode(ARMORED)
    assert (found.key, found.namespace, found.hash) == (KEY.blob, "file", "sha512")
    assert found.signed(bytes(64)) == SIGNED
    assert found.armored() == ARMORED
    assert decode(ARMORED.removesuffix(b"\n")) == found  # as git keeps it


def relined(width: int) -> bytes:
    text = b"".join(ARMORED.splitlines()[1:-1])
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return b"\n".join([ARMORED.splitlines()[0], *lines, ARMORED.splitlines()[-1]]) + b"\n"


def test_unused_bits_of_base64_are_zero() -> None:
    alphabet, tried = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/", 0
    for namespace in ("a", "ab", "abc"):
        signed = FileSignature(namespace, "sha512", bytes(64))
        text = sshsig.build(KEY, signed, PRIVATE.sign(signed.encode())).decode()
        head, padding, rest = text.partition("=")
        if padding:
            tried += 1
            other = alphabet[alphabet.index(head[-1]) + 1]
            with pytest.raises(FormatError, match="armored"):
                decode((head[:-1] + other + padding + rest).encode())
    assert tried == 2


def test_other_widths_of_lines() -> None:
    assert decode(relined(76)) == decode(relined(1)) == decode(ARMORED)
    with pytest.raises(FormatError):
        decode(relined(77))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n" + ARMORED,
        ARMORED + b"\n",
        ARMORED.replace(b"\n", b"\r\n"),
        ARMORED.replace(b"\n", b"\n\n", 1),
        ARMORED.replace(b"SSH SIGNATURE", b"PGP SIGNATURE"),
        ARMORED.replace(b"-----END", b"=-----END"),
        ARMORED.replace(b"U1NI", b"U1N I", 1),
        b"-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\n\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nAA=A\n-----END SSH SIGNATURE-----\n",
        b"-----BEGIN SSH SIGNATURE-----\nAB==\n-----END SSH SIGNATURE-----\n",
    ],
)
def test_other_armor_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


def rearmored(blob: bytes) -> bytes:
    lines = SshSig(b"", "", "", b"").armored().splitlines()
    return lines[0] + b"\n" + base64.b64encode(blob)[:76] + b"\n" + lines[-1] + b"\n"


@pytest.mark.parametrize("blob", [b"SSHSIG", b"SSHSIG\0\0\0\2" + strings(b"k", b"file"), b"SSHGIS\0\0\0\1"])
def test_other_versions_are_refused(blob: bytes) -> None:
    with pytest.raises(FormatError):
        decode(rearmored(blob))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": bytes(257)},
        {"namespace": ""},
        {"namespace": "ssh-auth"},
        {"namespace": "a\tb"},
        {"hash": "sha1"},
        {"hash": "sha384"},
        {"signature": bytes(257)},
    ],
)
def test_parts_that_none_may_have(changes: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        decode(replace(decode(ARMORED), **changes).armored())


def test_bounds() -> None:
    with pytest.raises(Oversized):
        decode(ARMORED + b"\n" * sshsig.MAX_BYTES)


def test_every_cut_and_every_bit_of_an_armored_one() -> None:
    for size, short in cuts(ARMORED):
        if size != len(ARMORED) - 1:
            with pytest.raises(FormatError):
                decode(short)
    same = 0
    for _, changed in flips(ARMORED):
        try:
            found = decode(changed)
        except FormatError:
            continue
        # A line end that became a letter and the like apart, what is read is not what it was.
        assert found != decode(ARMORED)
        same += 1
    assert same


@given(st.binary(max_size=300))
def test_anything_else_is_a_format_error(data: bytes) -> None:
    for whole in (data, b"-----BEGIN SSH SIGNATURE-----\n" + data + b"\n-----END SSH SIGNATURE-----\n"):
        with pytest.raises(FormatError):
            decode(whole)
