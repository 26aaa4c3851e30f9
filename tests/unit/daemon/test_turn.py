"""Requests of the same head on one connection: answered the short way as long as nothing changed, and never longer."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from agent.core.access import Decision, Members, Rules, Wish
from agent.daemon.connection import AHEAD_BYTES
from agent.daemon.guard import Guard
from agent.daemon.peers import Caller
from tests.support.doors import SECONDS, dial, rest, serving
from tests.support.turns import Signer, answer, asked, post, undated


def test_the_same_head_is_answered_the_short_way_and_looks_the_same(tmp_path: Path) -> None:
    signer = Signer()

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(post(b"one"))
            long, data = answer(sock)
            assert data == b"long:one"
            for each in (b"two", b"six"):
                sock.sendall(post(each))
                short, data = answer(sock)
                assert data == b"short:" + each
                assert undated(short) == undated(long)
                assert b"\r\nDate: " in short
                assert b"\r\nKey: 1" in short

    serving(tmp_path, signer.routes(), client)
    assert signer.short == [b"two", b"six"]


def test_any_other_head_takes_the_long_way(tmp_path: Path) -> None:
    signer = Signer()

    def client(path: Path) -> None:
        with dial(path) as sock:
            assert asked(sock, post(b"one")) == b"long:one"
            for said in (post(b"one", b"?a=1"), post(b"four"), post(b"four", b"", b"Accept: a/b\r\n")):
                assert asked(sock, said).startswith(b"long:")
            assert asked(sock, post(b"five", b"", b"Accept: a/b\r\n")) == b"short:five"

    serving(tmp_path, signer.routes(), client)


def test_another_connection_starts_anew(tmp_path: Path) -> None:
    signer = Signer()

    def client(path: Path) -> None:
        with dial(path) as first, dial(path) as second:
            for sock in (first, second):
                assert asked(sock, post(b"one")) == b"long:one"
            assert asked(first, post(b"two")) == b"short:two"

    serving(tmp_path, signer.routes(), client)


@pytest.mark.parametrize("why", ["fails", "gives_up"])
def test_what_the_short_way_can_not_do_the_long_one_does(tmp_path: Path, why: str) -> None:
    signer = Signer()

    def client(path: Path) -> None:
        with dial(path) as sock:
            assert asked(sock, post(b"one")) == b"long:one"
            setattr(signer, why, True)
            assert asked(sock, post(b"two")) == b"long:two"
            setattr(signer, why, False)
            assert asked(sock, post(b"six")) == b"short:six"

    serving(tmp_path, signer.routes(), client)


class Door(Guard):
    """Root may do everything whatever the rules say, and tests are root's: this one says no to everybody when shut."""

    shut = False

    def decide(self, caller: Caller, wish: Wish) -> Decision:
        return replace(super().decide(caller, wish), allowed=not self.shut)


def test_rules_that_change_are_asked_again(tmp_path: Path) -> None:
    """A reload between two requests of one connection: the decision before it is worth nothing."""
    signer, guard = Signer(), Door(lambda: Rules(members=Members(frozenset({os.getuid()}))))

    def client(path: Path) -> None:
        with dial(path) as sock:
            assert asked(sock, post(b"one")) == b"long:one"
            assert asked(sock, post(b"one")) == b"short:one"
            guard.reload()
            assert asked(sock, post(b"one")) == b"long:one"
            assert asked(sock, post(b"one")) == b"short:one"
            guard.shut = True
            guard.reload()
            sock.sendall(post(b"one"))
            assert rest(sock).startswith(b"HTTP/1.1 403 ")

    serving(tmp_path, signer.routes(), client, guard=guard)


def test_who_has_exited_gets_nothing_more(tmp_path: Path) -> None:
    """The connection outlives its process in the hands of another, which is not the one that was identified."""
    signer = Signer()

    def client(path: Path) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            child = os.fork()
            if not child:
                with dial(path) as sock:
                    asked(sock, post(b"one"))
                    short = asked(sock, post(b"two"))
                    socket.send_fds(theirs, [short], [sock.fileno()])
                os._exit(0)
            ours.settimeout(SECONDS)
            said, (fd,), _, _ = socket.recv_fds(ours, 64, 1)
            assert said == b"short:two"
            os.waitpid(child, 0)
        with socket.socket(fileno=fd) as sock:
            sock.settimeout(SECONDS)
            sock.sendall(post(b"six"))
            assert rest(sock).startswith(b"HTTP/1.1 403 ")

    serving(tmp_path, signer.routes(), client)


@pytest.mark.parametrize("step", [1, 100, 1 << 16])
def test_requests_behind_each_other_are_answered_in_order(tmp_path: Path, step: int) -> None:
    signer, bodies = Signer(), [b"%03d" % number for number in range(50)]

    def client(path: Path) -> None:
        said = b"".join(map(post, bodies)) + post(b"end", b"", b"Connection: close\r\n")
        with dial(path) as sock:
            for at in range(0, len(said), step):
                sock.sendall(said[at : at + step])
            found = [part.partition(b"\r\n\r\n")[2] for part in rest(sock).split(b"HTTP/1.1 200 ")[1:]]
        assert [each.partition(b":")[2] for each in found] == [*bodies, b"end"]

    serving(tmp_path, signer.routes(), client)
    assert step < 1 << 16 or signer.short == bodies[1:]


def test_two_pieces_split_anywhere_are_answered_as_one_is(tmp_path: Path) -> None:
    signer, said = Signer(), post(b"body")

    def client(path: Path) -> None:
        with dial(path) as sock:
            sock.sendall(said)
            whole, _ = answer(sock)
            for at in range(1, len(said)):
                sock.sendall(said[:at])
                sock.sendall(said[at:])
                head, data = answer(sock)
                assert undated(head) == undated(whole)
                assert data.partition(b":")[2] == b"body"

    serving(tmp_path, signer.routes(), client)


def test_a_body_that_comes_late_and_one_that_is_large(tmp_path: Path) -> None:
    signer, large = Signer(), os.urandom(3 * AHEAD_BYTES)

    def client(path: Path) -> None:
        with dial(path) as sock:
            assert asked(sock, post(large)) == b"long:" + large
            assert asked(sock, post(large)).partition(b":")[2] == large
            said = post(large)
            sock.sendall(said[:-1])
            assert asked(sock, said[-1:]).partition(b":")[2] == large

    serving(tmp_path, signer.routes(), client)
