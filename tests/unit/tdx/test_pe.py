"""The Authenticode hash against osslsigncode, and hostile images."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from agent.core.errors import FormatError, TeeAgentError
from tdx import pe
from tests.unit.tdx import images

SIGNER = shutil.which("osslsigncode")
SECTIONS = {".text": b"code" * 300, ".linux": b"kernel" * 999, ".osrel": b"ID=x\n"}
GOOD = {
    "plain": images.pe(SECTIONS),
    "32 bits": images.pe(SECTIONS, plus=False),
    "odd size": images.pe(SECTIONS, tail=b"abcdefg"),
    "tail": images.pe(SECTIONS, tail=b"x" * 64),
    "empty section": images.pe({".text": b"", ".linux": b"k"}),
    "kernel": images.kernel("vmlinuz"),
}


@pytest.fixture(scope="session")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signing")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    subprocess.run(
        [*argv, "-keyout", str(folder / "key"), "-out", str(folder / "cert")],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return folder


@pytest.mark.skipif(SIGNER is None, reason="osslsigncode is not installed")
@pytest.mark.parametrize("name", GOOD)
def test_the_hash_is_the_one_that_a_signing_tool_signs(name: str, signing_key: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(GOOD[name])
    key = ["-certs", str(signing_key / "cert"), "-key", str(signing_key / "key")]
    files = ["-in", str(tmp_path / "in"), "-out", str(tmp_path / "out")]
    assert SIGNER is not None
    subprocess.run([SIGNER, "sign", "-h", "sha384", *key, *files], capture_output=True, timeout=60, check=True)
    told = subprocess.run(
        [SIGNER, "verify", "-in", str(tmp_path / "out")], capture_output=True, text=True, timeout=60, check=False
    )
    digests = {line.split(":")[1].strip().lower() for line in told.stdout.splitlines() if "message digest  " in line}
    signed = pe.parse((tmp_path / "out").read_bytes())
    assert signed.certificates > 0
    assert digests == {pe.authenticode(signed).hex()}
    assert pe.authenticode(signed) == pe.authenticode(pe.parse(GOOD[name]), padded=True)


def test_padding_matters_to_odd_sizes_only() -> None:
    for name, data in GOOD.items():
        image = pe.parse(data)
        assert (pe.authenticode(image) == pe.authenticode(image, padded=True)) is (name != "odd size")


def test_checksum_and_certificates_are_left_out_and_nothing_else() -> None:
    data = images.pe(SECTIONS, certificates=b"c" * 64)
    expected, optional = pe.authenticode(pe.parse(data)), 0x80 + 24
    assert expected == pe.authenticode(pe.parse(data[:-64] + b"d" * 64))
    holes = {*range(optional + 64, optional + 68), *range(optional + 112 + 32, optional + 112 + 40)}
    holes |= set(range(len(data) - 64, len(data)))
    for offset in [*range(0, images.HEADERS, 3), *range(images.HEADERS, len(data), 97)]:
        bent = bytearray(data)
        bent[offset] ^= 1
        try:
            changed = pe.authenticode(pe.parse(bytes(bent))) != expected
        except FormatError:
            continue
        assert changed is (offset not in holes)


def test_sections_are_read_as_they_lie_in_memory() -> None:
    image = pe.parse(GOOD["plain"])
    assert {section.name: image.content(section) for section in image.sections} == SECTIONS
    assert pe.parse(GOOD["empty section"]).content(pe.parse(GOOD["empty section"]).sections[0]) == b""
    longer = pe.Section(".bss", images.ALIGNMENT + 3, images.ALIGNMENT, images.HEADERS)
    assert image.content(longer) == GOOD["plain"][images.HEADERS :][: images.ALIGNMENT] + bytes(3)
    with pytest.raises(FormatError, match="in memory"):
        image.content(pe.Section(".bss", 0xFFFFFFFF, 16, images.HEADERS))


def patched(at: int, value: bytes) -> bytes:
    data = bytearray(GOOD["plain"])
    data[at : at + len(value)] = value
    return bytes(data)


OPTIONAL = 0x80 + 24
BROKEN = {
    "empty": b"",
    "ELF": b"\x7fELF" + bytes(2000),
    "DOS only": b"MZ" + bytes(58),
    "header elsewhere": patched(0x3C, b"\xff\xff\xff\xff"),
    "no PE": patched(0x80, b"NE\0\0"),
    "magic": patched(OPTIONAL, b"\x07\x01"),
    "many sections": patched(0x86, b"\xff\xff"),
    "more sections than headers": patched(0x86, b"\x20\0"),
    "headers beyond the end": patched(OPTIONAL + 60, b"\xff\xff\xff\x7f"),
    "no headers": patched(OPTIONAL + 60, bytes(4)),
    "section beyond the end": patched(OPTIONAL + 240 + 20, b"\xff\xff\xff\xff"),
    "section too long": patched(OPTIONAL + 240 + 16, b"\xff\xff\xff\xff"),
    "sections over each other": patched(OPTIONAL + 240 + 40 + 16, b"\0\x20\0\0\0\x04\0\0"),
    "certificates too long": patched(OPTIONAL + 112 + 36, b"\xff\xff\0\0"),
    "cut": GOOD["plain"][:-1],
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        pe.parse(BROKEN[name])


def test_each_flipped_bit_of_the_headers_is_refused_or_hashed() -> None:
    good = images.pe({".text": b"x", ".linux": b"y"}, certificates=b"c" * 8)
    for offset in range(OPTIONAL + 240 + 80):
        for bit in range(8):
            bent = bytearray(good)
            bent[offset] ^= 1 << bit
            try:
                image = pe.parse(bytes(bent))
                assert len(pe.authenticode(image)) == 48
                assert all(len(image.content(section)) == section.virtual for section in image.sections)
            except TeeAgentError:
                continue


def test_too_large_an_image_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pe, "MAX_BYTES", len(GOOD["plain"]) - 1)
    with pytest.raises(FormatError) as caught:
        pe.parse(GOOD["plain"])
    assert caught.value.code == "format.oversized"
