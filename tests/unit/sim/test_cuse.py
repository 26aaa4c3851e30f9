"""The CUSE protocol: recorded requests and their answers, and the life of a node."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import threading
from pathlib import Path

import pytest

from agent.core.errors import DeviceMissing, PlatformError
from sim import host
from sim.cuse import REQUEST_MAX, Done, Memory, Node, Op, Span, answer, channel
from sim.kernel import failure
from tests.support.cuse import Kernel, body_of, kernel, request

HEADER = Path("/usr/include/linux/fuse.h")
INIT = struct.pack("<IIII", 7, 41, 0, 1)


class Doubler:
    """Command 1 reads a length at its argument and writes back that many bytes, doubled; 2 fails with data."""

    name = "doubler"

    def __init__(self) -> None:
        self.done = 0

    def ioctl(self, command: int, argument: int, memory: Memory) -> Done:
        if command not in {1, 2}:
            raise failure(errno.ENOTTY)
        size = memory.read(argument, 1)[0]
        data = memory.read(argument + 1, size)
        memory.claim(Span(argument, 1), Span(argument + 1, size))
        self.done += 1
        if command == 2:
            return Done(-errno.EIO, b"\xee")
        return Done(7, bytes([size]) + bytes(byte * 2 for byte in data))


def test_init_recorded_bytes() -> None:
    """What Linux 6.12 sends, byte by byte, and the answer with our name."""
    sent = bytes.fromhex("38000000 00100000 0100000000000000 0000000000000000 00000000 00000000 00000000 0000 0000")
    sent += bytes.fromhex("07000000 29000000 00000000 01000000")
    reply = answer(Doubler(), sent)
    assert reply is not None
    assert reply[:16] == bytes.fromhex("68000000 00000000 0100000000000000")
    assert reply[16:48] == bytes.fromhex("07000000 1f000000 00000000 01000000 00100000 00100000 00000000 00000000")
    assert reply[48:88] == bytes(40)
    assert reply[88:] == b"DEVNAME=doubler\0"


@pytest.mark.parametrize("body", [(7, 30, 0, 1), (8, 0, 0, 1), (6, 99, 0, 1), (7, 31, 0, 0)])
def test_another_protocol_is_refused(body: tuple[int, ...]) -> None:
    with pytest.raises(PlatformError, match="CUSE protocol"):
        answer(Doubler(), request(Op.INIT, struct.pack("<IIII", *body)))


def test_open_and_release() -> None:
    opened = answer(Doubler(), request(Op.OPEN, struct.pack("<II", os.O_RDWR, 0)))
    assert opened is not None
    assert body_of(opened) == bytes(16)
    released = answer(Doubler(), request(Op.RELEASE, bytes(24)))
    assert released is not None
    assert body_of(released) == b""


def test_an_interrupt_gets_no_answer() -> None:
    assert answer(Doubler(), request(Op.INTERRUPT, bytes(8), unique=3)) is None


@pytest.mark.parametrize("code", [15, 16, 20, 40, 99999])
def test_other_requests_are_unknown(code: int) -> None:
    """READ, WRITE, FSYNC, POLL, and one that does not exist."""
    reply = answer(Doubler(), request(code, bytes(64)))
    assert reply == struct.pack("<IiQ", 16, -errno.ENOSYS, 2)


def test_ioctl_rounds_as_bytes() -> None:
    """First nothing is there, then the length, then all that is read and room for what is written."""
    device = Doubler()

    def ask(data: bytes, room: int) -> bytes:
        body = struct.pack("<QIIQII", 0, 2, 1, 0x1000, len(data), room)
        reply = answer(device, request(Op.IOCTL, body + data))
        assert reply is not None
        return body_of(reply)

    retry = 1 << 2
    assert ask(b"", 0) == struct.pack("<iIII", 0, retry, 1, 0) + struct.pack("<QQ", 0x1000, 1)
    two = struct.pack("<QQQQ", 0x1000, 1, 0x1001, 3)
    assert ask(b"\3", 0) == struct.pack("<iIII", 0, retry, 2, 0) + two
    assert ask(b"\3abc", 0) == struct.pack("<iIII", 0, retry, 2, 2) + two + two
    assert device.done == 0, "nothing happens before there is room for the answer"
    assert ask(b"\1\2\3\4", 0)[4:8] == struct.pack("<I", retry), "memory that changed in between: asked again"
    assert ask(b"\3\1\2\3", 4) == struct.pack("<iIII", 7, 0, 0, 0) + b"\3\2\4\6"
    assert device.done == 1


def test_ioctl_over_memory() -> None:
    plugged = kernel(Doubler())
    memory = bytearray(b"\3\1\2\3rest")
    assert plugged.ioctl(0, 1, memory) == 7
    assert (memory, plugged.rounds) == (bytearray(b"\3\2\4\6rest"), 4)


def test_failure_can_bring_data() -> None:
    memory = bytearray(b"\1\1")
    with pytest.raises(OSError) as caught:
        kernel(Doubler()).ioctl(0, 2, memory)
    assert (caught.value.errno, memory) == (errno.EIO, bytearray(b"\xee\1"))


def test_unknown_command() -> None:
    with pytest.raises(OSError) as caught:
        kernel(Doubler()).ioctl(0, 3, bytearray(8))
    assert caught.value.errno == errno.ENOTTY


def test_a_node_lives_from_init_to_close(tmp_path: Path) -> None:
    """A socket pair that keeps messages apart stands for /dev/cuse, a folder for /dev."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    node = Node(Doubler(), theirs.detach, tmp_path)
    up = threading.Event()

    def transport(message: bytes) -> bytes:
        ours.sendall(message)
        return ours.recv(REQUEST_MAX)

    with ours:
        node.open()
        server = threading.Thread(target=node.serve, args=(up.set,))
        server.start()
        plugged = Kernel(transport)
        plugged.call(Op.INIT, INIT)
        assert not up.is_set(), "the kernel made no node"
        (tmp_path / "doubler").touch()
        plugged.call(Op.INIT, INIT)
        assert up.wait(10)
        ours.sendall(request(Op.INTERRUPT, bytes(8), unique=3))
        assert plugged.ioctl(0, 1, bytearray(b"\1\1")) == 7
        node.close()
        server.join(10)
        assert not server.is_alive()
        assert ours.recv(1) == b"", "its end of the channel is closed"


@pytest.mark.skipif(os.geteuid() != 0 or Path("/dev/cuse").exists(), reason="needs root, and a kernel without CUSE")
def test_a_kernel_without_cuse() -> None:
    with pytest.raises(PlatformError, match="/dev/cuse"):
        channel()
    with pytest.raises(DeviceMissing) as caught:
        host.require_privileges(Path("/dev/cuse"))
    assert (caught.value.exit_status, "modprobe cuse" in caught.value.hint) == (69, True)


@pytest.mark.skipif(not HEADER.exists(), reason="needs linux-libc-dev")
def test_numbers_are_the_headers() -> None:
    text = HEADER.read_text()
    for op in Op:
        word = "CUSE_INIT" if op is Op.INIT else f"FUSE_{op.name}"
        found = re.search(rf"^\s{word}\s*= (\d+),", text, re.MULTILINE)
        assert found is not None
        assert int(found[1]) == op
