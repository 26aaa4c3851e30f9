"""The content of configfs-tsm's ``report/`` directory, as Linux behaves; no FUSE here.

Sources: Linux drivers/virt/coco/tsm.c (since 6.16 drivers/virt/coco/guest/report.c), fs/configfs/{dir,file}.c and
Documentation/ABI/testing/configfs-tsm. Every refusal is an OSError with the kernel's errno. One lock stands for the
driver's semaphore: while a report is being made, the whole tree waits, as on a genuine machine.

Decided here: which files exist, their modes, when a write counts, when a report is made, the two generations.
"""

from __future__ import annotations

import errno
import re
import stat
import threading
from collections.abc import Callable

from sim.kernel import DIRECTORY_MODE, INBLOB_MAX, PRIVLEVEL_MAX, TEXT_SIZE, Attribute, Made, Node, Provider, failure

_UINT = re.compile(r"\+?(0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)\n?", re.IGNORECASE | re.ASCII)


class Entry:
    """One report entry (``struct tsm_report_state``)."""

    def __init__(self, modulus: int) -> None:
        self._modulus = modulus
        self.write_generation = 0
        self.read_generation = 0
        self.inblob = b""
        self.privlevel = 0
        self.made: Made | None = None
        self.removed = False

    def advance(self) -> None:
        """A new write generation; EBUSY when that would catch up with the last report read, by wrapping around."""
        if self.write_generation == (self.read_generation - 1) % self._modulus:
            raise failure(errno.EBUSY)
        self.write_generation = (self.write_generation + 1) % self._modulus

    @property
    def current(self) -> Made | None:
        """The cached report, None where there is none for what was written last."""
        return self.made if self.read_generation == self.write_generation else None


class Tree:
    """``report/``: entries by name, attributes by the provider's kind.

    ``provider`` None is a kernel without TEE driver (mkdir: ENXIO). ``intruder`` is asked after each fresh read of an
    outblob whether another process has just written to the same entry. ``generation_bits`` is the kernel's word size.
    """

    def __init__(
        self,
        provider: Provider | None,
        intruder: Callable[[], bool] = lambda: False,
        *,
        generation_bits: int = 64,
    ) -> None:
        self._provider = provider
        self._intruder = intruder
        self._modulus = 1 << generation_bits
        self._entries: dict[str, Entry] = {}
        self._lock = threading.RLock()

    def attributes(self) -> tuple[Attribute, ...]:
        """The files of every entry, in the kernel's order of registration."""
        if self._provider is None:
            return ()
        shown = [Attribute.GENERATION, Attribute.PROVIDER]
        if self._provider.privlevel_floor is not None:
            shown += [Attribute.PRIVLEVEL, Attribute.PRIVLEVEL_FLOOR]
        shown += [Attribute.INBLOB, Attribute.OUTBLOB]
        return (*shown, Attribute.AUXBLOB) if self._provider.has_auxblob else tuple(shown)

    def listing(self, path: str) -> tuple[str, ...]:
        """Names in a directory. Raises ENOENT, ENOTDIR."""
        with self._lock:
            parts = _parts(path)
            if not stat.S_ISDIR(self.node(path).mode):
                raise failure(errno.ENOTDIR)
            return tuple(str(name) for name in self.attributes()) if parts else tuple(self._entries)

    def node(self, path: str) -> Node:
        """Mode and size. Raises ENOENT."""
        with self._lock:
            parts = _parts(path)
            if not parts:
                return Node(DIRECTORY_MODE)
            self._entry(parts[0])
            if len(parts) == 1:
                return Node(DIRECTORY_MODE)
            attribute = self._attribute(parts)
            return Node(attribute.mode, 0 if attribute.binary else TEXT_SIZE)

    def mkdir(self, path: str) -> None:
        """A new entry. Raises ENXIO without provider, EEXIST, EPERM inside an entry."""
        with self._lock:
            parts = _parts(path)
            if len(parts) != 1:
                raise failure(errno.EPERM if parts else errno.EEXIST)
            if parts[0] in self._entries:
                raise failure(errno.EEXIST)
            if self._provider is None:
                raise failure(errno.ENXIO)
            self._entries[parts[0]] = Entry(self._modulus)

    def rmdir(self, path: str) -> None:
        """Remove an entry with its files; whoever has one open gets ENOENT from then on."""
        with self._lock:
            parts = _parts(path)
            if len(parts) != 1:
                raise failure(errno.ENOTDIR if parts else errno.EBUSY)
            self._entry(parts[0]).removed = True
            del self._entries[parts[0]]

    def open(self, path: str, *, read: bool, write: bool) -> Handle:
        """Open an attribute. Raises EACCES for a direction that it does not have, for root too, as configfs does."""
        with self._lock:
            parts = _parts(path)
            if len(parts) < 2:
                self.node(path)
                raise failure(errno.EISDIR)
            entry, attribute = self._entry(parts[0]), self._attribute(parts)
            if (write and not attribute.writable) or (read and attribute.writable):
                raise failure(errno.EACCES)
            return Handle(self, entry, attribute)

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise failure(errno.ENOENT)
        return self._entries[name]

    def _attribute(self, parts: list[str]) -> Attribute:
        if len(parts) != 2 or parts[1] not in self.attributes():
            raise failure(errno.ENOENT)
        return Attribute(parts[1])

    # What a handle does with its entry, always under the lock.

    def show(self, entry: Entry, attribute: Attribute) -> bytes:
        """The bytes of a readable attribute now; makes the report when there is none for what was written last."""
        with self._lock:
            provider = self._alive(entry)
            match attribute:
                case Attribute.GENERATION:
                    return b"%d\n" % entry.write_generation
                case Attribute.PROVIDER:
                    return provider.name.encode() + b"\n"
                case Attribute.PRIVLEVEL_FLOOR:
                    return b"%d\n" % (provider.privlevel_floor or 0)
                case Attribute.AUXBLOB:
                    return self._report(provider, entry).auxblob
                case _:
                    blob = self._report(provider, entry).outblob
                    if self._intruder():
                        entry.advance()
                    return blob

    def store_privlevel(self, entry: Entry, text: bytes) -> None:
        """Raises EINVAL (no number, below the floor, above 3), ERANGE (over 32 bits), EBUSY (generation wrap)."""
        with self._lock:
            provider = self._alive(entry)
            match = _UINT.fullmatch(text.decode("latin-1"))
            if not match:
                raise failure(errno.EINVAL)
            level = _number(match[1])
            if level >> 32:
                raise failure(errno.ERANGE)
            if not (provider.privlevel_floor or 0) <= level <= PRIVLEVEL_MAX:
                raise failure(errno.EINVAL)
            entry.advance()
            entry.privlevel = level

    def commit_inblob(self, entry: Entry, data: bytes) -> None:
        """Raises EBUSY (generation wrap), ENOENT (entry removed). The kernel ignores both: it happens in close."""
        with self._lock:
            self._alive(entry)
            entry.advance()
            entry.inblob = data

    def _alive(self, entry: Entry) -> Provider:
        if entry.removed or self._provider is None:
            raise failure(errno.ENOENT)
        return self._provider

    def _report(self, provider: Provider, entry: Entry) -> Made:
        if not entry.inblob:
            raise failure(errno.EINVAL)
        if entry.current is None:
            entry.made = None
            entry.made = provider.report(entry.inblob, entry.privlevel)
            entry.read_generation = entry.write_generation
        return entry.made or Made(b"")


class Handle:
    """One open file description: reads see one snapshot, binary writes count at close."""

    def __init__(self, tree: Tree, entry: Entry, attribute: Attribute) -> None:
        self._tree, self._entry, self.attribute = tree, entry, attribute
        self._snapshot: bytes | None = None
        self._pending: bytearray | None = None

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes. Raises EINVAL, ENOENT, whatever the provider raises."""
        if self._snapshot is None:
            shown = self._tree.show(self._entry, self.attribute)
            # configfs keeps no empty binary answer: the next read asks again.
            self._snapshot = shown if shown or not self.attribute.binary else None
            return shown[offset : offset + size]
        return self._snapshot[offset : offset + size]

    def write(self, data: bytes, offset: int) -> int:
        """All of ``data``. Raises EFBIG (inblob over 64 bytes), EINVAL, ERANGE, EBUSY, ENOENT."""
        if not self.attribute.binary:
            self._tree.store_privlevel(self._entry, data)
            return len(data)
        # Even a refused write makes close commit what was there before it: nothing, as a rule. So does configfs.
        pending = self._pending = self._pending if self._pending is not None else bytearray()
        if offset + len(data) > INBLOB_MAX:
            raise failure(errno.EFBIG)
        pending.extend(bytes(max(0, offset + len(data) - len(pending))))
        pending[offset : offset + len(data)] = data
        return len(data)

    def close(self) -> None:
        """Commit what was written. Never fails: the kernel ignores the result of a release."""
        if self._pending is None:
            return
        data, self._pending = bytes(self._pending), None
        try:
            self._tree.commit_inblob(self._entry, data)
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.ENOENT}:
                raise


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _number(text: str) -> int:
    """kstrtouint with base 0: hexadecimal after 0x, octal after 0, else decimal."""
    if text[:2].lower() == "0x":
        return int(text, 16)
    return int(text, 8) if text.startswith("0") else int(text)
