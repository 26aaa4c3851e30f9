"""The ssh-agent protocol: requests of real clients, every cut and bit of them, frames however they arrive."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core import sshagent
from agent.core.errors import FormatError, Oversized
from agent.core.sshagent import KEPT, MAX_LIST, MAX_MESSAGE, Bind, BrokenBind, Frames, List, Other, Query, Sign, read
from agent.core.sshwire import strings, uint32
from tests.support import ssh
from tests.support.mutations import cuts, flips

HOST = ssh.Host()


def body(frame: bytes) -> bytes:
    return frame[4:]


def test_requests() -> None:
    assert read(body(ssh.listing())) == List()
    assert read(body(ssh.signing(b"key", b"data"))) == Sign(b"key", b"data")
    assert read(body(ssh.extension(b"query"))) == Query()
    bind = read(body(HOST.bind(forwarding=True)))
    assert isinstance(bind, Bind)
    assert (bind.host_key, bind.session, bind.forwarding) == (HOST.blob, ssh.SESSION, True)


def test_requests_of_an_agent_that_can_be_given_keys_are_others() -> None:
    for kind in range(256):
        if kind not in (11, 13, 27):
            assert read(bytes([kind]) + b"whatever") == Other()
    assert read(b"") == Other()
    assert read(body(ssh.extension(b"restrict-destination-v00@openssh.com"))) == Other()


@pytest.mark.parametrize(
    "message",
    [
        body(ssh.listing()) + b"\0",
        body(ssh.signing(b"k", b"d")) + b"\0",
        body(ssh.signing(b"k", b"d", flags=2)),
        body(ssh.signing(b"k", b"d", flags=1 << 31)),
        body(ssh.signing(bytes(257), b"d")),
        body(ssh.signing(b"k", bytes(KEPT + 1))),
        body(ssh.extension(b"query", b"x")),
        b"\x1b",
        b"\x0d",
    ],
)
def test_malformed(message: bytes) -> None:
    with pytest.raises(FormatError):
        read(message)


def test_a_bind_that_can_t_be_read_is_still_one() -> None:
    whole = body(HOST.bind())
    name = len(strings(b"session-bind@openssh.com")) + 1
    for size, short in cuts(whole):
        if size >= name:
            assert read(short) == BrokenBind()
    assert read(whole + b"\0") == read(whole[:-1] + b"\2") == BrokenBind()


@pytest.mark.parametrize(
    "whole", [body(ssh.listing()), body(ssh.signing(b"key", b"data")), body(ssh.extension(b"query")), body(HOST.bind())]
)
def test_every_cut_and_every_bit(whole: bytes) -> None:
    for changed in (*(short for _, short in cuts(whole)), *(changed for _, changed in flips(whole))):
        try:
            found = read(changed)
        except FormatError:
            continue
        assert found != read(whole)


def test_answers() -> None:
    assert (ssh.framed(b"\5"), ssh.framed(b"\6")) == (sshagent.FAILURE, sshagent.SUCCESS)
    assert ssh.framed(b"\x1c") == sshagent.EXTENSION_FAILURE
    assert sshagent.signature(b"made") == ssh.framed(b"\x0e" + strings(b"made"))
    keys = [(b"key", "uid-0/a"), (b"other", "uid-0/\u00e9")]
    assert ssh.listed(body(sshagent.identities(keys))) == keys
    assert ssh.listed(body(sshagent.identities([]))) == []
    assert sshagent.extensions() == ssh.framed(b"\x1d" + strings(b"query", b"session-bind@openssh.com"))


def test_a_list_is_as_long_as_it_may_be() -> None:
    asked = 0

    def keys() -> Iterable[tuple[bytes, str]]:
        nonlocal asked
        while asked < 1000:
            asked += 1
            yield bytes(200), f"key {asked}"

    answer = sshagent.identities(keys())
    assert MAX_LIST - 300 < len(answer) <= MAX_LIST + 9
    assert [comment for _, comment in ssh.listed(body(answer))] == [f"key {number}" for number in range(1, asked)]


MESSAGES = [b"\x0b", b"x" * KEPT, b"y" * (KEPT + 1), b"\x0d" + bytes(100), b"z" * MAX_MESSAGE, b"\x1b"]
READ = [message if len(message) <= KEPT else b"" for message in MESSAGES]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 4096, 1 << 20])
def test_frames_in_pieces_of_any_size(size: int) -> None:
    stream, frames = b"".join(map(ssh.framed, MESSAGES)), Frames()
    found: list[bytes] = []
    for at in range(0, len(stream), size):
        found += frames.feed(stream[at : at + size])
        assert len(frames._buffer) <= 4 + KEPT
    assert found == READ
    assert not frames.partial


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6), st.lists(st.integers(0, 500), max_size=20))
def test_frames_cut_anywhere(messages: list[bytes], places: list[int]) -> None:
    stream, frames, found = b"".join(map(ssh.framed, messages)), Frames(), []
    marks = sorted({0, len(stream), *(place for place in places if place < len(stream))})
    for begin, end in pairwise(marks):
        found += frames.feed(stream[begin:end])
        whole = b"".join(map(ssh.framed, found))
        assert frames.partial is (whole != stream[:end])
    assert found == messages


def test_what_can_t_be_followed_ends_it() -> None:
    for size in (MAX_MESSAGE + 1, (1 << 32) - 1):
        with pytest.raises(Oversized):
            Frames().feed(uint32(size))
    with pytest.raises(FormatError, match="without a type"):
        Frames().feed(uint32(0))
    assert Frames().feed(uint32(MAX_MESSAGE)) == []


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        for message in Frames().feed(data):
            read(message)
        read(data)
    except FormatError:
        return
