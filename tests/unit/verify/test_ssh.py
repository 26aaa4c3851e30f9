"""ssh signatures: what passes, what each check refuses, every bit and every cut."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.core import sshsig
from agent.core.algorithm import ALGORITHMS, P256, SECP256K1
from agent.core.bundle_parts import Payload
from agent.core.errors import (
    BindingMismatch,
    FormatError,
    OutOfValidity,
    SignatureInvalid,
    UsageError,
    VerificationError,
)
from agent.core.sshsig import FileSignature, SshSig
from agent.core.sshwire import PublicKey, mpint, strings
from agent.daemon.privatekey import PrivateKey
from agent.verify.keydoc import verify_key
from agent.verify.signedtext import key_lines
from agent.verify.ssh import verify_ssh
from tests.support import ssh
from tests.support.formats import CONTEXT, PAYLOAD, Party
from tests.support.mutations import cuts, flips
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)


@pytest.fixture(scope="module", params=ssh.ALGORITHMS)
def party(request: pytest.FixtureRequest, pki_state: Path) -> Party:
    return Party.on(machine("snp", pki_state), AT, "ssh", request.param)


@pytest.fixture(scope="module")
def document(party: Party) -> bytes:
    return party.document()


def forged(party: Party, private: PrivateKey, **changes: Any) -> bytes:
    """Signed by ``private``, with other parts than it should have."""
    signed = FileSignature(CONTEXT, "sha512", hashlib.sha512(PAYLOAD).digest())
    made = PublicKey.of(private.spki).wrap(private.sign(signed.encode()))
    return replace(SshSig(PublicKey.of(party.spki).blob, CONTEXT, "sha512", made), **changes).armored()


@pytest.mark.parametrize("name", sshsig.HASHES)
def test_it_passes_and_says_what_it_holds(party: Party, document: bytes, name: str) -> None:
    chunks = [PAYLOAD[:3], PAYLOAD[3:]]
    verdict = verify_ssh(party.ssh(name=name), document, party.judge(AT), payload=chunks, context=CONTEXT)
    assert [check.number for check in verdict.checks] == list(range(1, len(verdict.checks) + 1))
    assert [check.name for check in verdict.checks][:5] == [
        "form: canonical and complete",
        "key",
        "signature of the key",
        "use of the key",
        "context",
    ]
    said = verdict.to_json()
    assert (said["kind"], said["context"]) == ("ssh signature", CONTEXT)
    payload = {"algorithm": name.replace("sha", "sha-"), "digest": hashlib.new(name, PAYLOAD).hexdigest()}
    assert said["payload"] == payload | {"size": len(PAYLOAD)}
    assert said["ssh"] == PublicKey.of(party.spki).line()
    assert not {"payload: not compared", "context: not compared"} & set(verdict.not_checked)
    bare = verify_ssh(party.ssh(), document, party.judge(AT), payload=chunks)
    assert "context: not compared" in bare.not_checked
    text = "\n".join(key_lines(verdict, "a file"))
    assert f"{payload['algorithm']}:{payload['digest']}, {len(PAYLOAD)} bytes, same as 'a file'" in text
    assert said["ssh"] in text


def test_a_digest_stands_for_the_payload_where_it_is_the_same_one(party: Party, document: bytes) -> None:
    judge, payload = party.judge(AT), Payload.of(PAYLOAD)
    assert verify_ssh(party.ssh(), document, judge, payload=payload).said["payload"]["size"] == len(PAYLOAD)
    with pytest.raises(SignatureInvalid):
        verify_ssh(party.ssh(), document, judge, payload=Payload.of(b"other"))
    with pytest.raises(UsageError, match="sha256"):
        verify_ssh(party.ssh(name="sha256"), document, judge, payload=payload)


def test_another_payload_or_namespace(party: Party, document: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        verify_ssh(party.ssh(), document, party.judge(AT), payload=[b"other"])
    with pytest.raises(BindingMismatch, match="context is 'orders'") as caught:
        verify_ssh(party.ssh(), document, party.judge(AT), payload=[PAYLOAD], context="git")
    assert caught.value.checks[-1].name == "context"
    for changes in ({"namespace": "git"}, {"hash": "sha256"}):
        with pytest.raises(SignatureInvalid):
            verify_ssh(forged(party, party.private, **changes), document, party.judge(AT), payload=[PAYLOAD])


def test_a_stranger_s_signature_or_key(party: Party, document: bytes) -> None:
    stranger = PrivateKey(party.private.algorithm)
    with pytest.raises(SignatureInvalid, match="does not verify"):
        verify_ssh(forged(party, stranger), document, party.judge(AT), payload=[PAYLOAD])
    own = forged(party, stranger, key=PublicKey.of(stranger.spki).blob)
    with pytest.raises(BindingMismatch, match="another key") as caught:
        verify_ssh(own, document, party.judge(AT), payload=[PAYLOAD])
    assert caught.value.checks[-1].name == "key"


def test_a_login_is_no_signature_of_a_file(party: Party, document: bytes) -> None:
    """What a key signed to log in, put into the form of a file's signature."""
    public = PublicKey.of(party.spki)
    made = public.wrap(party.private.sign(ssh.login(public)))
    with pytest.raises(SignatureInvalid):
        verify_ssh(forged(party, party.private, signature=made), document, party.judge(AT), payload=[PAYLOAD])
    with pytest.raises(FormatError, match="kept for logins"):
        verify_ssh(forged(party, party.private, namespace="ssh-auth"), document, party.judge(AT), payload=[PAYLOAD])


def test_the_other_s_is_refused(party: Party, document: bytes) -> None:
    kind, public = party.private.algorithm, PublicKey.of(party.spki)
    if not kind.order:
        return
    found = sshsig.decode(party.ssh())
    raw = public.unwrap(found.signature)
    half = len(raw) // 2
    high = kind.order - int.from_bytes(raw[half:], "big")
    numbers = mpint(int.from_bytes(raw[:half], "big")) + mpint(high)
    other = replace(found, signature=strings(public.kind.encode(), numbers)).armored()
    with pytest.raises(SignatureInvalid):
        verify_ssh(other, document, party.judge(AT), payload=[PAYLOAD])


def test_signatures_of_other_kinds(party: Party, document: bytes) -> None:
    for kind in (b"ssh-rsa", b"rsa-sha2-512", b"sk-ssh-ed25519@openssh.com", b""):
        with pytest.raises(FormatError):
            forgery = forged(party, party.private, signature=strings(kind, bytes(64)))
            verify_ssh(forgery, document, party.judge(AT), payload=[PAYLOAD])


def test_time_and_use(party: Party, document: bytes) -> None:
    late = party.judge(AT + timedelta(days=2))
    with pytest.raises(OutOfValidity):
        verify_ssh(party.ssh(), document, late, payload=[PAYLOAD])
    other = replace(party, statement=replace(party.statement, use="raw"))
    with pytest.raises(VerificationError, match="for raw, not"):
        verify_ssh(other.ssh(), other.document(), other.judge(AT), payload=[PAYLOAD])


def test_ssh_has_no_keys_on_secp256k1(pki_state: Path) -> None:
    party = Party.on(machine("snp", pki_state), AT, "ssh", P256)
    strange = Party.on(machine("snp", pki_state), AT, "ssh", SECP256K1)
    with pytest.raises(FormatError, match="ssh knows no"):
        verify_ssh(party.ssh(), strange.document(), party.judge(AT), payload=[PAYLOAD])
    with pytest.raises(FormatError, match="ssh knows no"):
        verify_key(strange.document(), strange.judge(AT))
    plain = Party.on(machine("snp", pki_state), AT, "raw", SECP256K1)
    assert "ssh" not in verify_key(plain.document(), plain.judge(AT)).said


def test_a_key_document_for_ssh_shows_the_line(party: Party, document: bytes) -> None:
    assert verify_key(document, party.judge(AT), use="ssh").said == {"ssh": PublicKey.of(party.spki).line()}


def test_every_cut_and_every_bit(pki_state: Path) -> None:
    """Of the blob: in its text form, a line end more or less says nothing."""
    party = Party.on(machine("snp", pki_state), AT, "ssh", "Ed25519")
    judge, document = party.judge(AT), party.document()
    lines = party.ssh().splitlines()
    blob = base64.b64decode(b"".join(lines[1:-1]))

    def passes(data: bytes) -> bool:
        text = b"\n".join([lines[0], *_wrapped(data), lines[-1]])
        try:
            verify_ssh(text, document, judge, payload=[PAYLOAD])
        except (FormatError, VerificationError):
            return False
        return True

    assert passes(blob)
    assert [bit for bit, changed in flips(blob) if passes(changed)] == []
    assert [size for size, short in cuts(blob) if passes(short)] == []
    assert not passes(blob + b"\0")


def _wrapped(data: bytes) -> list[bytes]:
    text = base64.b64encode(data)
    return [text[at : at + 70] for at in range(0, len(text), 70)]


def test_algorithms() -> None:
    assert set(ssh.ALGORITHMS) < set(ALGORITHMS)
