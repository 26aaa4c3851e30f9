"""The other side of a client's connection, in a thread: conversations that a test scripts byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Talk = Callable[[socket.socket], object]


@contextmanager
def serving(path: Path, *talks: Talk) -> Iterator[Path]:
    """A socket that has these conversations, one for each connection, and takes no other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            for talk in talks:
                connection, _ = listener.accept()
                with connection:
                    try:
                        talk(connection)
                    except OSError:
                        continue  # the client hung up: that is its right

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            thread.join(30)
            assert not thread.is_alive()


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    given = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def heard(connection: socket.socket) -> bytes:
    """One request, its body included, as far as Content-Length or the last chunk says."""
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            if (length and len(body) >= int(length)) or (not length and body.endswith(b"0\r\n\r\n")):
                return data
            if not length and b"chunked" not in head:
                return data
        more = connection.recv(1 << 16)
        if not more:
            return data
        data += more


def says(*answers: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        for data in answers:
            heard(connection)
            connection.sendall(data)

    return talk
