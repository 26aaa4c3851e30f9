"""SSH's strings, numbers, keys and signatures: cryptography judges what we write, and one form is taken."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from hypothesis import given
from hypothesis import strategies as st

from agent.core.algorithm import ALGORITHMS, SECP256K1
from agent.core.errors import FormatError, Truncated
from agent.core.sshwire import NAMES, PublicKey, Reader, mpint, strings, uint32
from agent.daemon.privatekey import PrivateKey
from tests.support import ssh
from tests.support.mutations import cuts, flips


@pytest.fixture(scope="module", params=ssh.ALGORITHMS)
def private(request: pytest.FixtureRequest) -> PrivateKey:
    return PrivateKey(ALGORITHMS[request.param])


def test_cryptography_writes_the_same_line(private: PrivateKey) -> None:
    found = load_der_public_key(private.spki)
    assert isinstance(found, (Ed25519PublicKey, ec.EllipticCurvePublicKey))
    expected = found.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    public = PublicKey.of(private.spki)
    assert public.line() == expected
    assert public.line("uid-0/a") == f"{expected} uid-0/a"
    assert public.kind == NAMES[private.algorithm.name]


def test_ssh_has_no_name_for_secp256k1() -> None:
    with pytest.raises(FormatError, match="ssh knows no ECDSA-secp256k1"):
        PublicKey.of(PrivateKey(ALGORITHMS[SECP256K1]).spki)


def test_signatures_there_and_back(private: PrivateKey) -> None:
    public = PublicKey.of(private.spki)
    for number in range(200):  # r and s with and without a leading zero
        made = private.sign(uint32(number))
        assert public.unwrap(public.wrap(made)) == made


def test_a_signature_in_another_form_is_refused(private: PrivateKey) -> None:
    public = PublicKey.of(private.spki)
    whole = public.wrap(private.sign(b""))
    for _, short in cuts(whole):
        with pytest.raises(FormatError):
            public.unwrap(short)
    taken = 0
    for _, changed in flips(whole):
        try:
            taken += public.wrap(public.unwrap(changed)) == changed
        except FormatError:
            continue
    assert taken > 256  # those of the numbers themselves: they verify nothing, and come out as they went in
    with pytest.raises(FormatError, match="follow"):
        public.unwrap(whole + b"\0")
    other = next(
        PublicKey.of(PrivateKey(ALGORITHMS[name]).spki) for name in ssh.ALGORITHMS if NAMES[name] != public.kind
    )
    with pytest.raises(FormatError):
        other.unwrap(whole)


@pytest.mark.parametrize("numbers", [b"", mpint(1), mpint(1) + mpint(0), mpint(1) * 3, strings(b"\0\1") + mpint(1)])
def test_halves_of_a_signature(numbers: bytes) -> None:
    public = PublicKey.of(PrivateKey(ALGORITHMS["ECDSA-P256"]).spki)
    with pytest.raises(FormatError):
        public.unwrap(strings(public.kind.encode(), numbers))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_an_ed25519_signature_has_its_size(size: int) -> None:
    public = PublicKey.of(PrivateKey(ALGORITHMS["Ed25519"]).spki)
    with pytest.raises(FormatError, match="64 to 64"):
        public.unwrap(strings(b"ssh-ed25519", bytes(size)))


def test_a_half_above_the_order_is_refused() -> None:
    kind = ALGORITHMS["ECDSA-P256"]
    public = PublicKey.of(PrivateKey(kind).spki)
    for r, s, good in ((kind.order - 1, 1, True), (kind.order, 1, False), (1, kind.order, False), (1 << 260, 1, False)):
        data = strings(public.kind.encode(), mpint(r) + mpint(s))
        if good:
            assert public.unwrap(data) == r.to_bytes(32, "big") + s.to_bytes(32, "big")
        else:
            with pytest.raises(FormatError, match="order"):
                public.unwrap(data)


# RFC 4251, section 5.
@pytest.mark.parametrize(
    ("value", "data"), [(0, "00000000"), (0x9A378F9B2E332A7, "0000000809a378f9b2e332a7"), (0x80, "000000020080")]
)
def test_numbers_of_the_standard(value: int, data: str) -> None:
    assert mpint(value).hex() == data
    if value:
        assert Reader(bytes.fromhex(data), "number").number() == value


@pytest.mark.parametrize(
    "data", ["00000000", "0000000100", "00000002ed cc", "000000020001", "0000000180", "00000032" + "01" * 50]
)
def test_numbers_that_are_none_of_ours(data: str) -> None:
    with pytest.raises(FormatError):
        Reader(bytes.fromhex(data), "number").number()


def test_texts_flags_and_ends() -> None:
    reader = Reader(strings(b"a", b"\xc3\xa9") + b"\1\0" + b"rest", "sample")
    assert (reader.text(1), reader.text(2), reader.boolean(), reader.boolean()) == ("a", "\u00e9", True, False)
    with pytest.raises(FormatError, match="4 bytes follow"):
        reader.finish()
    assert reader.rest() == b"rest"
    reader.finish()
    for data in (strings(b""), strings(b"\xff"), strings(b"a\n"), strings(b"abc"), strings("\u202e".encode())):
        with pytest.raises(FormatError):
            Reader(data, "sample").text(2)
    with pytest.raises(FormatError, match="flag"):
        Reader(b"\2", "sample").boolean()
    with pytest.raises(Truncated):
        Reader(b"\xff\xff\xff\xffabc", "sample").string(1 << 32)
    with pytest.raises(FormatError, match="4294967295 bytes"):
        Reader(b"\xff\xff\xff\xffabc", "sample").string(100)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_strings_there_and_back(values: list[bytes]) -> None:
    reader = Reader(strings(*values), "sample")
    assert [reader.string(40) for _ in values] == values
    reader.finish()


@given(st.integers(1, (1 << 384) - 1))
def test_numbers_there_and_back(value: int) -> None:
    reader = Reader(mpint(value), "sample")
    assert reader.number() == value
    reader.finish()
