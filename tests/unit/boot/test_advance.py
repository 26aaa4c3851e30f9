"""The key made in advance is a key like any other; a child that fails only costs time, and none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from agent.core.errors import DeadlineExceeded, SecretError
from agent.core.exchange import Wrapped
from agent.unseal import WrappingKey

ROOT = Path(__file__).resolve().parents[3]


def in_a_process_of_its_own(code: str) -> str:
    """Early boot forks while it has one thread; the test runner has more."""
    argv = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


TAKE = """
from agent.boot import advance
from agent.core.errors import DeadlineExceeded
from agent.deadline import Deadline
{before}
try:
    key = advance.KeyInAdvance().take(Deadline({seconds}, "key"))
    print(key.public_der.hex())
    print(key.private_der().hex())
except DeadlineExceeded as error:
    print(error.code)
try:
    advance.os.waitpid(-1, 0)
except ChildProcessError:
    print("none left")
"""
FAILED = "advance._make = lambda *_: advance.os._exit(1)"
STANDS = "advance._make = lambda *_: advance.signal.pause()"
DEAF = "advance.signal.signal(advance.signal.SIGCHLD, advance.signal.SIG_IGN)"
FIRST_FAILED = """
make = advance._make
advance._make = lambda writer, nicer: make(writer, nicer) if nicer else advance.os._exit(1)
advance.os.sched_getaffinity = lambda _: {0, 1, 2}
"""
FIRST_STANDS = """
make = advance._make
advance._make = lambda writer, nicer: make(writer, nicer) if nicer else advance.signal.pause()
advance.os.sched_getaffinity = lambda _: set(range(99))
"""


@pytest.mark.parametrize(
    "before",
    ["", FAILED, FIRST_FAILED, FIRST_STANDS, DEAF],
    ids=["made", "failed", "first failed", "first stands", "started where SIGCHLD is ignored"],
)
def test_it_opens_what_is_wrapped_for_it(before: str) -> None:
    public_hex, private_hex, left = in_a_process_of_its_own(TAKE.format(before=before, seconds=60)).splitlines()
    assert left == "none left"
    public = load_der_public_key(bytes.fromhex(public_hex))
    assert isinstance(public, RSAPublicKey)
    assert public.key_size == 3072
    aes, iv = os.urandom(32), os.urandom(12)
    sealed = AESGCM(aes).encrypt(iv, b"secret", None)
    wrapped_key = public.encrypt(aes, OAEP(MGF1(SHA256()), SHA256(), None))
    key = WrappingKey.from_der(bytes.fromhex(private_hex))
    wrapped = Wrapped("AES-GCM", wrapped_key, sealed[:-16], iv, sealed[-16:])
    assert bytes(key.unseal(wrapped).reveal()) == b"secret"


def test_a_search_that_never_ends_is_ended() -> None:
    said = in_a_process_of_its_own(TAKE.format(before=STANDS, seconds=0.2)).splitlines()
    assert said == [DeadlineExceeded.code, "none left"]


def test_only_rsa_keys_are_taken() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    other = Ed25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(SecretError):
        WrappingKey.from_der(other)
