"""A payload of 1 GiB is hashed as it comes: the signer's memory does not grow with it, nor with five of them at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from agent.core import compact
from agent.daemon.body import MAX_PAYLOAD
from tests.support.daemon import Connection, Daemon, dial, open_folder, running_daemon
from tests.support.keys import create
from tests.support.simulator import running_simulator

pytestmark = [pytest.mark.fuse, pytest.mark.slow]
GIB = 1 << 30
BLOCK = os.urandom(1 << 20)
AT_ONCE = 5
MOST = 6 << 20
"""Bytes by which the most memory that the signer ever had may grow: buffers of connections, and the allocator's."""


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder) as running,
    ):
        create(running, "raw", "raw", "ECDSA-P256")
        for path in ("/v1/sign", "/v1/keys/raw/sign"):
            post(running, path, 8)
        yield running


@pytest.fixture(scope="module")
def expected() -> str:
    """SHA-512 of the payload."""
    found = hashlib.sha512()
    for _ in range(GIB // len(BLOCK)):
        found.update(BLOCK)
    return found.hexdigest()


def post(daemon: Daemon, path: str, blocks: int) -> bytes:
    """The answer to so many blocks."""
    link = Connection(daemon.socket)
    try:
        headers = {"Content-Length": str(blocks * len(BLOCK)), "Accept": f"{compact.MEDIA_TYPE}, application/*;q=0.5"}
        link.request("POST", path, (BLOCK for _ in range(blocks)), headers)
        answer = link.getresponse()
        data = answer.read()
        assert answer.status == 200, data
        return data
    finally:
        link.close()


def peak(daemon: Daemon) -> int:
    """The most memory that the signer ever had, in bytes."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{daemon.role('signer')}/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) << 10


def check(data: bytes, expected: str) -> None:
    payload = compact.decode(data).payload
    assert (payload.digest.hex(), payload.size) == (expected, GIB)


def test_one_gibibyte_takes_no_memory(daemon: Daemon, expected: str) -> None:
    before = peak(daemon)
    check(post(daemon, "/v1/sign", GIB // len(BLOCK)), expected)
    assert peak(daemon) - before < MOST


def test_five_at_once_take_no_memory_and_others_are_served(daemon: Daemon, expected: str) -> None:
    before = peak(daemon)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [pool.submit(partial(post, daemon, "/v1/sign", GIB // len(BLOCK))) for _ in range(AT_ONCE)]
        served = 0
        while not all(one.done() for one in sent):
            assert daemon.post("/v1/sign", b"small").status == 200
            served += 1
        for one in sent:
            check(one.result(), expected)
    assert served > 10
    assert peak(daemon) - before < MOST


def test_an_ecdsa_key_hashes_what_comes_too(daemon: Daemon) -> None:
    before = peak(daemon)
    assert post(daemon, "/v1/keys/raw/sign", 256)[:1] == b"\x30"
    assert peak(daemon) - before < MOST


def test_one_byte_more_is_refused_before_it_comes(daemon: Daemon) -> None:
    with dial(daemon.socket) as sock:
        sock.sendall(b"POST /v1/sign HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (MAX_PAYLOAD + 1))
        head, _, body = sock.recv(1 << 16).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    assert json.loads(body)["code"] == "format.oversized"
