"""What a thief would have evidence made over, and how it is looked for in what reached the hardware (I2, I3)."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.daemon import Daemon, open_folder, running_daemon
from tests.support.recording import Record, recording_simulator

CHOSEN = hashlib.sha512(b"chosen by the thief").digest()
NONCE = hashlib.sha256(b"the service's nonce").hexdigest()
FIELDS = ("report_data", "reportData", "inblob", "user_data", "data", "nonce", "challenge", "digest", "root", "payload")
ASK = """
import socket, sys
for line in sys.stdin:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(sys.argv[1])
        try:
            sock.sendall(bytes.fromhex(line))
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        except OSError:
            answer = b""
    print(answer[4:].decode("utf-8", "replace"), flush=True)
"""


def wrapping_keys() -> list[bytes]:
    public = rsa.generate_private_key(65537, 2048).public_key()
    return [
        public.public_bytes(Encoding.DER, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        CHOSEN,
    ]


KEYS = wrapping_keys()


def forbidden() -> set[str]:
    """What a thief would like to see: the bytes themselves, bare nonces, and the service's form over any of the keys."""
    nonces = (NONCE.encode(), bytes.fromhex(NONCE), CHOSEN.hex().encode(), CHOSEN)
    wanted = {CHOSEN, NONCE.encode(), bytes.fromhex(NONCE) + bytes(32), hashlib.sha512(CHOSEN).digest()}
    wanted |= {hashlib.sha512(nonce).digest() for nonce in nonces}
    wanted |= {hashlib.sha512(nonce + key).digest() for nonce in nonces for key in KEYS}
    return {value.hex() for value in wanted}


@contextmanager
def recorded_daemon(pki_state: Path) -> Iterator[tuple[Daemon, Record]]:
    """A daemon whose hardware writes down every REPORT_DATA that it is given; its own key has its evidence."""
    with (
        open_folder() as folder,
        recording_simulator(folder, pki_state) as (simulator, record),
        running_daemon(simulator, folder, ssh_socket=True) as daemon,
    ):
        assert daemon.post("/v1/sign").status == 200
        yield daemon, record


def forms() -> list[Any]:
    """The chosen bytes and the nonce, as JSON could carry them."""
    return [
        CHOSEN.hex(),
        CHOSEN.hex().upper(),
        "0x" + CHOSEN.hex(),
        base64.b64encode(CHOSEN).decode(),
        list(CHOSEN),
        NONCE,
        NONCE.encode().hex(),
        CHOSEN.decode("latin-1"),
    ]


def ask(path: Path, user: list[str], requests: list[bytes]) -> list[str]:
    """The answers to ``requests``, asked as ``user``; "" for a connection that was closed without one."""
    done = subprocess.run(
        [*user, sys.executable, "-I", "-c", ASK, str(path)],
        input="".join(request.hex() + "\n" for request in requests),
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    return done.stdout.splitlines()
