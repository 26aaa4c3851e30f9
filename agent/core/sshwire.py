"""What SSH's formats have in common: strings and numbers (RFC 4251, section 5), public keys and signatures.

One form each, and no other taken: keys as in RFC 8709 (ssh-ed25519) and RFC 5656 (ecdsa-sha2-nistp256, -nistp384,
uncompressed points), numbers as short as they can be. Sizes are checked before anything is copied.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.core.algorithm import ED25519, P256, P384, Algorithm, of_spki
from agent.core.canonical import is_text
from agent.core.errors import FormatError, Truncated

NAMES: Mapping[str, str] = MappingProxyType(
    {ED25519: "ssh-ed25519", P256: "ecdsa-sha2-nistp256", P384: "ecdsa-sha2-nistp384"}
)
"""SSH's names of our algorithms; there is none for secp256k1."""
_CURVES = {P256: b"nistp256", P384: b"nistp384"}
MAX_KEY = 256
"""Bytes of a public key's or a signature's encoding at the most: of the algorithms above, with room to spare."""
MAX_NUMBER = 49
"""Bytes of the longest number: a scalar of P-384 and its sign."""


class Reader:
    """Reads values one after another. Every method raises FormatError, or Truncated at the end of the data."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._at, self._what = data, 0, what

    def raw(self, size: int) -> bytes:
        """``size`` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise Truncated(f"{self._what} is truncated", record=self._what, offset=len(self._data))
        found, self._at = self._data[self._at : end], end
        return found

    def byte(self) -> int:
        return self.raw(1)[0]

    def boolean(self) -> bool:
        """0 or 1, which is all that may be written."""
        if (found := self.byte()) > 1:
            raise self.wrong("a flag is neither 0 nor 1")
        return bool(found)

    def uint32(self) -> int:
        return int.from_bytes(self.raw(4), "big")

    def string(self, most: int, least: int = 0) -> bytes:
        """A string of ``least`` to ``most`` bytes."""
        size = self.uint32()
        if not least <= size <= most:
            raise self.wrong(f"a string of {size} bytes, {least} to {most} are allowed")
        return self.raw(size)

    def text(self, most: int) -> str:
        """The same as UTF-8, not empty, without control characters."""
        try:
            found = self.string(most, 1).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.wrong("a text is not UTF-8") from error
        if not is_text(found, most):
            raise self.wrong("a text has control characters")
        return found

    def number(self, most: int = MAX_NUMBER) -> int:
        """An mpint that is above 0, in its shortest form, ``most`` bytes long."""
        found = self.string(most, 1)
        value = int.from_bytes(found, "big")
        if found[0] & 0x80 or mpint(value) != _sized(found):
            raise self.wrong("a number is negative, 0, or longer than it has to be")
        return value

    def literal(self, expected: bytes) -> None:
        """A string that must be this one."""
        if self.string(len(expected), len(expected)) != expected:
            raise self.wrong(f"{expected.decode('ascii')} is required")

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.raw(len(self._data) - self._at)

    def finish(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise self.wrong(f"{len(self._data) - self._at} bytes follow the end")

    def wrong(self, problem: str) -> FormatError:
        return FormatError(f"{self._what}: {problem}", record=self._what, offset=self._at)


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def strings(*values: bytes) -> bytes:
    """Each as a string: its length in four bytes, then itself."""
    return b"".join(map(_sized, values))


def mpint(value: int) -> bytes:
    """A number of 0 or more, as the string that it is: b"" inside for 0."""
    return _sized(value.to_bytes(value.bit_length() // 8 + 1, "big") if value else b"")


def _sized(value: bytes) -> bytes:
    return uint32(len(value)) + value


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key of ours as SSH writes it: ``kind`` is SSH's name of its algorithm, ``blob`` the encoding."""

    algorithm: Algorithm
    kind: str
    blob: bytes

    @classmethod
    def of(cls, spki: bytes) -> PublicKey:
        """From a SubjectPublicKeyInfo. Raises FormatError where SSH knows no such keys."""
        algorithm = of_spki(spki)
        if algorithm.name not in NAMES:
            raise FormatError(f"ssh knows no {algorithm.name} keys", record="key")
        kind, raw = NAMES[algorithm.name].encode(), spki[len(algorithm.spki_prefix) :]
        parts = (kind, _CURVES[algorithm.name], b"\x04" + raw) if algorithm.order else (kind, raw)
        return cls(algorithm, kind.decode(), strings(*parts))

    def line(self, comment: str = "") -> str:
        """As in authorized_keys and *.pub files (sshd(8)), without a line end."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}" + (f" {comment}" if comment else "")

    def wrap(self, signature: bytes) -> bytes:
        """A signature in its fixed form (agent.core.algorithm) as SSH writes it."""
        half = len(signature) // 2
        halves = (signature[:half], signature[half:])
        numbers = b"".join(mpint(int.from_bytes(part, "big")) for part in halves)
        return strings(self.kind.encode(), numbers if self.algorithm.order else signature)

    def unwrap(self, signature: bytes) -> bytes:
        """The way back, with whatever s. Raises FormatError, for another algorithm's too."""
        reader = Reader(signature, "ssh signature")
        reader.literal(self.kind.encode())
        size = self.algorithm.signature_size
        inside = reader.string(MAX_KEY) if self.algorithm.order else reader.string(size, size)
        reader.finish()
        if not self.algorithm.order:
            return inside
        numbers = Reader(inside, "ssh signature")
        r, s = numbers.number(), numbers.number()
        numbers.finish()
        if max(r, s) >= self.algorithm.order:
            raise numbers.wrong("a value is as large as the curve's order")
        half = size // 2
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")
