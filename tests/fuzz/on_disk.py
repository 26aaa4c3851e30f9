"""Targets: a LUKS2 header as a hostile host may write it (invariant I5)."""

from __future__ import annotations

from agent.core.errors import HeaderRefused
from agent.disk import binary, header, metadata, token
from tests.fuzz.contract import Broken, Target
from tests.fuzz.samples import compact
from tests.support import luks

_DEVICE = 1 << 30
_SIZE = binary.SIZES[0]
_WORDS = (
    *(b'"%s"' % name for name in (b"keyslots", b"tokens", b"segments", b"digests", b"config", b"kdf", b"area", b"af")),
    *(b'"%s"' % name for name in (b"argon2id", b"pbkdf2", b"luks2", b"tee-agent", b"pending", b"bound", b"sha512")),
    b'"requirements"',
    b'"flags"',
    b"cipher_null-ecb",
    b"9223372036854775807",
    b"\\ud800",
    b"[[[[[[[[",
)


def copy(data: bytes) -> None:
    """One copy's fixed part as it stands: the checksum is the fuzzer's problem."""
    for which in ("primary", "secondary"):
        try:
            binary.size_of(data, which)
            found, text = binary.parse(data, which)
        except HeaderRefused:
            continue
        if binary.build(found, text, which)[4096 : 4096 + len(text)] != text:
            raise Broken("a header does not come out as it went in")


def device(data: bytes) -> None:
    """A device that begins with ``data``: flags, 512 bytes of each copy's fixed part, then one JSON text or two.

    Checksums are made right, so what is behind them is reached; the first byte says which copy is spoiled.
    """
    flags, fixed, text = data[:1] or b"\0", data[1:1025], data[1025:]
    texts = text.split(b"\0", 1) if flags[0] & 1 else [text, text]
    parts = [_sealed(fixed[at : at + 512], one) for at, one in ((0, texts[0]), (512 if flags[0] & 2 else 0, texts[-1]))]
    if not flags[0] & 2:
        parts[1] = b"SKUL" + parts[1][4:256] + _SIZE.to_bytes(8, "big") + parts[1][264:]
        parts[1] = _sealed(parts[1][:512], texts[-1])
    if flags[0] & 4:
        parts[0] = parts[0][:448] + bytes(64) + parts[0][512:]
    if flags[0] & 8:
        parts[1] = bytes(_SIZE)
    found = luks.load(b"".join(parts), _DEVICE)
    _tokens(found)


def _sealed(fixed: bytes, text: bytes) -> bytes:
    data = bytearray(fixed.ljust(512, b"\0").ljust(4096, b"\0") + text[: _SIZE - 4097]).ljust(_SIZE, b"\0")
    data[448:512] = binary.checksum(bytes(data))
    return bytes(data)


def _tokens(found: header.Header) -> None:
    ours = token.find(found.metadata)
    token.next_generation(ours)
    if ours and token.parse(ours[1].document(), ours[0]) != ours[1]:
        raise Broken("a token does not come out as it went in")


def document(data: bytes) -> None:
    found = metadata.parse(data, _SIZE)
    if found.data_offset < found.keyslots_end or found.volume_digest not in found.digests:
        raise Broken("metadata that can't be")
    _tokens(header.Header(luks.sample()[0], found, intact=True))


def _device_seed() -> bytes:
    fixed, found = luks.sample()
    text = compact(found)
    primary = binary.build(fixed, text, "primary")
    return b"\0" + primary[:512] + binary.build(fixed, text, "secondary")[:512] + text


def _copy_seeds() -> list[bytes]:
    fixed, found = luks.sample()
    return [binary.build(fixed, compact(found), which) for which in ("primary", "secondary")]


TARGETS = {
    "disk.binary": Target(
        copy, lambda s: _copy_seeds(), (b"LUKS\xba\xbe\0\2", b"SKUL\xba\xbe\0\2", b"sha256"), most=_SIZE
    ),
    "disk.header": Target(device, lambda s: [_device_seed()], (b"LUKS\xba\xbe\0\2", *_WORDS), most=8192),
    "disk.metadata": Target(document, lambda s: [compact(luks.sample()[1])], _WORDS),
}
