"""configfs-tsm's semantics, errno by errno."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sim.kernel import Attribute, Made, failure
from sim.tree import Handle, Tree

DATA = bytes(range(64))


@dataclass
class Counting:
    """A provider whose blobs show what they were made from."""

    name: str = "sev_guest"
    privlevel_floor: int | None = 0
    has_auxblob: bool = True
    fail: list[int] = field(default_factory=list)
    made: int = 0
    aux: bytes = b"certs"

    def report(self, inblob: bytes, privlevel: int) -> Made:
        if self.fail:
            raise failure(self.fail.pop(0))
        self.made += 1
        return Made(b"%d:%d:" % (self.made, privlevel) + inblob, self.aux)


@pytest.fixture
def provider() -> Counting:
    return Counting()


@pytest.fixture
def tree(provider: Counting) -> Tree:
    made = Tree(provider)
    made.mkdir("/e")
    return made


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number, caught.value


def reader(tree: Tree, name: str) -> Handle:
    return tree.open(f"/e/{name}", read=True, write=False)


def read(tree: Tree, name: str) -> bytes:
    return reader(tree, name).read(1 << 16, 0)


def write(tree: Tree, data: bytes = DATA, name: str = "inblob") -> None:
    handle = tree.open(f"/e/{name}", read=False, write=True)
    handle.write(data, 0)
    handle.close()


def test_snp_entry_has_the_drivers_files_and_modes(tree: Tree) -> None:
    modes = {name: stat.S_IMODE(tree.node(f"/e/{name}").mode) for name in tree.listing("/e")}
    assert modes == {
        "generation": 0o444,
        "provider": 0o444,
        "privlevel": 0o200,
        "privlevel_floor": 0o444,
        "inblob": 0o200,
        "outblob": 0o444,
        "auxblob": 0o444,
    }
    assert tree.node("/e").mode == tree.node("/").mode == stat.S_IFDIR | 0o755
    assert (tree.node("/e/generation").size, tree.node("/e/outblob").size) == (4096, 0)


def test_tdx_entry_has_neither_auxblob_nor_privlevel() -> None:
    tree = Tree(Counting("tdx_guest", privlevel_floor=None, has_auxblob=False))
    tree.mkdir("/e")
    assert set(tree.listing("/e")) == {"generation", "provider", "inblob", "outblob"}
    assert read(tree, "provider") == b"tdx_guest\n"
    refused(errno.ENOENT, lambda: tree.node("/e/auxblob"))
    refused(errno.ENOENT, lambda: tree.open("/e/privlevel", read=False, write=True))


def test_without_provider_no_entry_can_be_made() -> None:
    tree = Tree(None)
    refused(errno.ENXIO, lambda: tree.mkdir("/e"))
    assert tree.listing("/") == ()


def test_directories(tree: Tree) -> None:
    refused(errno.EEXIST, lambda: tree.mkdir("/e"))
    refused(errno.EEXIST, lambda: tree.mkdir("/"))
    refused(errno.EPERM, lambda: tree.mkdir("/e/sub"))
    refused(errno.ENOTDIR, lambda: tree.rmdir("/e/inblob"))
    refused(errno.EBUSY, lambda: tree.rmdir("/"))
    refused(errno.ENOENT, lambda: tree.rmdir("/other"))
    refused(errno.ENOENT, lambda: tree.node("/other/inblob"))
    refused(errno.ENOENT, lambda: tree.node("/e/inblob/x"))
    refused(errno.ENOTDIR, lambda: tree.listing("/e/inblob"))
    refused(errno.EISDIR, lambda: tree.open("/e", read=True, write=False))
    tree.mkdir("/f")
    assert tree.listing("/") == ("e", "f")
    tree.rmdir("/e")
    assert tree.listing("/") == ("f",)


@pytest.mark.parametrize(
    ("name", "direction"),
    [("inblob", "read"), ("privlevel", "read"), ("outblob", "write"), ("generation", "write"), ("provider", "write")],
)
def test_wrong_direction_is_refused_to_root_too(tree: Tree, name: str, direction: str) -> None:
    refused(errno.EACCES, lambda: tree.open(f"/e/{name}", read=direction == "read", write=direction == "write"))
    refused(errno.EACCES, lambda: tree.open(f"/e/{name}", read=True, write=True))


def test_each_commit_counts_once(tree: Tree) -> None:
    assert read(tree, "generation") == b"0\n"
    handle = tree.open("/e/inblob", read=False, write=True)
    handle.write(DATA[:32], 0)
    handle.write(DATA[32:], 32)
    assert read(tree, "generation") == b"0\n"
    handle.close()
    handle.close()
    assert read(tree, "generation") == b"1\n"
    write(tree, b"2\n", "privlevel")
    assert read(tree, "generation") == b"2\n"
    assert read(tree, "outblob") == b"1:2:" + DATA


def test_opening_without_writing_commits_nothing(tree: Tree) -> None:
    tree.open("/e/inblob", read=False, write=True).close()
    assert read(tree, "generation") == b"0\n"


def test_holes_are_zero(tree: Tree) -> None:
    handle = tree.open("/e/inblob", read=False, write=True)
    handle.write(b"x", 3)
    handle.close()
    assert read(tree, "outblob") == b"1:0:\0\0\0x"


def test_oversized_inblob(tree: Tree) -> None:
    handle = tree.open("/e/inblob", read=False, write=True)
    refused(errno.EFBIG, lambda: handle.write(bytes(65), 0))
    refused(errno.EFBIG, lambda: handle.write(b"x", 64))
    handle.close()
    # The kernel commits the nothing that got through.
    assert read(tree, "generation") == b"1\n"
    refused(errno.EINVAL, lambda: read(tree, "outblob"))


def test_outblob_needs_inblob(tree: Tree, provider: Counting) -> None:
    refused(errno.EINVAL, lambda: read(tree, "outblob"))
    refused(errno.EINVAL, lambda: read(tree, "auxblob"))
    assert not provider.made


def test_one_report_per_generation(tree: Tree, provider: Counting) -> None:
    write(tree)
    assert read(tree, "outblob") == read(tree, "outblob") == b"1:0:" + DATA
    assert read(tree, "auxblob") == b"certs"
    assert provider.made == 1
    write(tree, DATA[::-1])
    assert read(tree, "auxblob") == b"certs"
    assert provider.made == 2
    assert read(tree, "outblob") == b"2:0:" + DATA[::-1]


def test_an_open_outblob_is_a_snapshot(tree: Tree) -> None:
    write(tree)
    handle = reader(tree, "outblob")
    first = handle.read(10, 0)
    write(tree, DATA[::-1])
    assert first + handle.read(1000, 10) == b"1:0:" + DATA
    assert handle.read(10, 1000) == b""


def test_a_failed_report_is_tried_again(tree: Tree, provider: Counting) -> None:
    provider.fail = [errno.EBUSY, errno.EIO]
    write(tree)
    handle = reader(tree, "outblob")
    refused(errno.EBUSY, lambda: handle.read(4, 0))
    refused(errno.EIO, lambda: handle.read(4, 0))
    assert handle.read(4, 0) == b"1:0:"


def test_a_failure_drops_the_older_report(tree: Tree, provider: Counting) -> None:
    write(tree)
    read(tree, "outblob")
    write(tree, DATA[::-1])
    provider.fail = [errno.EBUSY]
    refused(errno.EBUSY, lambda: read(tree, "outblob"))
    assert read(tree, "outblob") == b"2:0:" + DATA[::-1]


def test_empty_auxblob_reads_as_end_of_file(tree: Tree, provider: Counting) -> None:
    provider.aux = b""
    write(tree)
    assert read(tree, "auxblob") == b""


@pytest.mark.parametrize(
    ("text", "level"), [(b"0", 0), (b"3\n", 3), (b"0x2", 2), (b"02\n", 2), (b"+1", 1), (b"0X1\n", 1)]
)
def test_privlevel_accepts_what_kstrtouint_accepts(tree: Tree, text: bytes, level: int) -> None:
    write(tree, text, "privlevel")
    write(tree)
    assert read(tree, "outblob").startswith(b"1:%d:" % level)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"4", errno.EINVAL),
        (b"-1", errno.EINVAL),
        (b" 1", errno.EINVAL),
        (b"1 ", errno.EINVAL),
        (b"1\n\n", errno.EINVAL),
        (b"09", errno.EINVAL),
        (b"0x", errno.EINVAL),
        (b"\x01", errno.EINVAL),
        (b"4294967296", errno.ERANGE),
    ],
)
def test_privlevel_refuses(tree: Tree, text: bytes, number: int) -> None:
    refused(number, lambda: write(tree, text, "privlevel"))
    assert read(tree, "generation") == b"0\n"


def test_privlevel_floor() -> None:
    tree = Tree(Counting(privlevel_floor=2))
    tree.mkdir("/e")
    assert read(tree, "privlevel_floor") == b"2\n"
    refused(errno.EINVAL, lambda: write(tree, b"1", "privlevel"))
    write(tree, b"2", "privlevel")
    assert read(tree, "generation") == b"1\n"


def test_generation_must_not_catch_up_with_the_last_read(provider: Counting) -> None:
    tree = Tree(provider, generation_bits=2)
    tree.mkdir("/e")
    for _ in range(3):
        write(tree, b"1", "privlevel")
    assert read(tree, "generation") == b"3\n"
    refused(errno.EBUSY, lambda: write(tree, b"1", "privlevel"))
    write(tree)  # close has no way to say that it failed
    assert read(tree, "generation") == b"3\n"
    refused(errno.EINVAL, lambda: read(tree, "outblob"))


def test_reading_lets_the_generation_go_on(provider: Counting) -> None:
    tree = Tree(provider, generation_bits=2)
    tree.mkdir("/e")
    for wanted in (b"1", b"2", b"3", b"0", b"1", b"2"):
        write(tree)
        read(tree, "outblob")
        assert read(tree, "generation") == wanted + b"\n"


def test_entries_do_not_touch_each_other(tree: Tree) -> None:
    tree.mkdir("/f")
    write(tree)
    assert tree.open("/f/generation", read=True, write=False).read(9, 0) == b"0\n"
    refused(errno.EINVAL, lambda: tree.open("/f/outblob", read=True, write=False).read(9, 0))


def test_open_files_of_a_removed_entry(tree: Tree) -> None:
    handles = [reader(tree, "outblob"), reader(tree, "generation")]
    writer = tree.open("/e/inblob", read=False, write=True)
    writer.write(DATA, 0)
    tree.rmdir("/e")
    refused(errno.ENOENT, lambda: handles[0].read(9, 0))
    refused(errno.ENOENT, lambda: handles[1].read(9, 0))
    writer.close()
    tree.mkdir("/e")
    assert read(tree, "generation") == b"0\n"


def test_an_intruder_shows_in_the_generation(provider: Counting) -> None:
    turns = [True, False]
    tree = Tree(provider, lambda: turns.pop(0))
    tree.mkdir("/e")
    write(tree)
    assert read(tree, "outblob") == b"1:0:" + DATA
    assert read(tree, "generation") == b"2\n"
    write(tree)
    assert read(tree, "outblob") == b"2:0:" + DATA
    assert read(tree, "generation") == b"3\n"


def test_attributes_know_themselves() -> None:
    assert {attribute for attribute in Attribute if attribute.writable} == {Attribute.INBLOB, Attribute.PRIVLEVEL}
