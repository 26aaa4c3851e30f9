"""What is a batch: bounded before it is parsed, each payload read strictly."""

from __future__ import annotations

from typing import Any

import pytest

from agent.core import canonical
from agent.core.bundle import Payload
from agent.core.errors import FormatError
from agent.daemon import payloads
from agent.daemon.bulk import items
from tests.support.bulk import batch, data


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        batch(),
        batch(*[data(b"x")] * 1001),
        b'{"payloads":{}}',
        b'{"payloads":[{"data":"QQ=="}],"more":1}',
        b'{"payloads":[{"data":"QQ=="}],"payloads":[{"data":"QQ=="}]}',
        b'{"payloads":[{"data":"QQ==","data":"QQ=="}]}',
        b'{"payloads":[1.5]}',
        b'{"payloads":["' + b"\xff" + b'"]}',
        b'{"payloads":' * 5000,
        b'{"payloads":[' + b"[" * 5000,
        b'{"payloads":[' + b"{}," * 5000 + b"{}]}",
        b'{"payloads":[' + b"1," * 5000 + b"1]}",
        b'{"payloads":[' + b'{"a":' * 2001 + b"1",
    ],
)
def test_what_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError):
        items(body)


def test_what_a_parser_would_choke_on_is_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of small values take hundreds of bytes of memory for each of theirs."""

    def parse(*_: Any) -> Any:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(canonical, "parse", parse)
    for unit in (b"[],", b"{},", b"1,", b'"",', b"[", b"{"):
        with pytest.raises(FormatError):
            items(b'{"payloads":[' + unit * 100_000)


def test_a_thousand_digests_are_a_batch() -> None:
    digest = {"digest": {"alg": "sha-512", "digest": "ab" * 64, "size": 1}}
    assert items(batch(*[digest] * 1000)) == [digest] * 1000


@pytest.mark.parametrize(
    ("item", "digest"),
    [
        (data(b"abc"), Payload.of(b"abc").digest),
        ({"digest": {"alg": "sha-512", "digest": "0a" * 64, "size": 3}}, b"\n" * 64),
    ],
)
def test_items_of_bundles_are_data_or_digests(item: Any, digest: bytes) -> None:
    found = payloads.of_item(item)
    assert (found.digest, found.size) == (digest, 3)


@pytest.mark.parametrize(
    "digest",
    [
        {"alg": "sha-256", "digest": "00" * 64, "size": 1},
        {"alg": "sha-512", "digest": "00" * 63, "size": 1},
        {"alg": "sha-512", "digest": "AA" * 64, "size": 1},
        {"alg": "sha-512", "digest": "00" * 64, "size": -1},
        {"alg": "sha-512", "digest": "00" * 64, "size": True},
        {"alg": "sha-512", "digest": "00" * 64, "size": 2**53},
        {"alg": "sha-512", "digest": "00" * 64},
        {"alg": "sha-512", "digest": "00" * 64, "size": 1, "more": 1},
        {"alg": ["sha-512"], "digest": "00" * 64, "size": 1},
        {"alg": "sha-512", "digest": ["00" * 64], "size": 1},
        "00" * 64,
        None,
        [],
    ],
)
def test_digests_are_read_strictly(digest: Any) -> None:
    with pytest.raises(FormatError):
        payloads.of_item({"digest": digest})
