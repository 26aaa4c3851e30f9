"""The audit log's chain: every change of a line, cut, removal, doubling and exchange is found, and where."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import audit
from agent.core.audittail import tail
from agent.core.canonical import encode
from agent.core.errors import FormatError, TeeAgentError, VerificationError

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
CALLER = {"uid": 1000, "gid": 1000, "unit": "app.service", "container": ""}


def fields(seq: int, **more: Any) -> dict[str, Any]:
    return {
        "seq": seq,
        "time": "2026-11-22T12:00:00Z",
        "boot_id": BOOT,
        "kind": "key.created" if seq else audit.FILE,
        "severity": "info",
        "caller": CALLER if seq % 2 else None,
        "fields": {"key": f"n/{seq}", "generation": seq, "fresh": False, "note": None},
        **more,
    }


def log(count: int, start: int = 0, prev: bytes = audit.START) -> list[bytes]:
    lines = []
    for number in range(count):
        lines.append(audit.record(prev, fields(start + number, **({"kind": audit.FILE} if not number else {}))))
        prev = audit.digest(lines[-1])
    return lines


LINES = log(5)
DATA = b"".join(line + b"\n" for line in LINES)
HEAD = audit.digest(LINES[-1])


def checked(data: bytes, head: bytes | None = HEAD) -> audit.Head:
    return audit.verify(audit.split(data), head)


def test_a_line_is_named_by_a_tagged_digest() -> None:
    assert audit.digest(LINES[0]) == hashlib.sha256(b"tee-agent/audit/v1\0" + LINES[0]).digest()
    assert json.loads(LINES[1])["prev"] == audit.digest(LINES[0]).hex()
    assert json.loads(LINES[0])["prev"] == hashlib.sha256(b"tee-agent/audit/v1\0").hexdigest()


def test_a_whole_log_verifies() -> None:
    head = checked(DATA)
    assert (head.seq, head.digest, head.first.seq, head.last.seq, head.after) == (4, HEAD, 0, 4, 0)
    assert head.last.fields == {"key": "n/4", "generation": 4, "fresh": False, "note": None}
    assert head.first.caller is None
    assert audit.verify(LINES[:2]).last.caller == CALLER


def test_every_flipped_bit_is_found() -> None:
    for position in range(len(DATA)):
        for bit in range(8):
            changed = bytearray(DATA)
            changed[position] ^= 1 << bit
            with pytest.raises(VerificationError) as caught:
                checked(bytes(changed))
            assert caught.value.code == "verify.audit"


def test_without_a_head_only_the_last_line_is_open() -> None:
    end = len(DATA) - len(LINES[-1]) - 1
    for position in range(end):
        changed = bytearray(DATA)
        changed[position] ^= 1
        with pytest.raises(VerificationError):
            checked(bytes(changed), None)
    assert checked(DATA.replace(b'"n/4"', b'"n/5"'), None).seq == 4


def test_every_cut_is_found_with_the_head() -> None:
    for length in range(len(DATA)):
        with pytest.raises(VerificationError):
            checked(DATA[:length])


def test_a_cut_between_lines_shows_only_with_a_head() -> None:
    for count in range(1, 5):
        assert audit.verify(LINES[:count]).seq == count - 1
        with pytest.raises(VerificationError, match="cut or made anew"):
            audit.verify(LINES[:count], HEAD)
    with pytest.raises(VerificationError, match="no record"):
        audit.verify([])


def test_the_error_names_the_line() -> None:
    for lines, where in (
        (LINES[:2] + LINES[3:], "line 3: record 3 follows record 1"),
        ([*LINES[:3], LINES[2], *LINES[3:]], "line 4: record 2 follows record 2"),
        ([LINES[0], LINES[2], LINES[1]], "line 2: "),
        (LINES[1:], "line 1: a file begins with 'key.created'"),
        ([LINES[0], b"{}"], "line 2: no audit record"),
    ):
        with pytest.raises(VerificationError, match=where):
            audit.verify(lines)


@settings(max_examples=200, deadline=None)
@given(st.permutations(range(5)))
def test_no_other_order_verifies(order: list[int]) -> None:
    lines = [LINES[index] for index in order]
    if lines == LINES:
        assert audit.verify(lines).seq == 4
    else:
        with pytest.raises(VerificationError):
            audit.verify(lines, HEAD)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4), st.dictionaries(st.sampled_from(("key", "generation")), st.integers(5, 9), min_size=1))
def test_a_rewritten_line_breaks_the_one_behind_it(number: int, values: dict[str, int]) -> None:
    document = json.loads(LINES[number])
    document["fields"] |= values
    lines = [*LINES[:number], encode(document), *LINES[number + 1 :]]
    with pytest.raises(VerificationError):
        audit.verify(lines, HEAD)


def test_a_noted_head_may_be_followed_by_more() -> None:
    assert audit.verify(LINES, audit.digest(LINES[1])).after == 3


def test_a_log_may_begin_later_but_with_a_file() -> None:
    later = log(3, start=7, prev=HEAD)
    assert audit.verify(later).first.seq == 7
    with pytest.raises(VerificationError, match="names a record before it"):
        audit.verify(log(2, prev=HEAD))


def test_a_file_begins_with_its_own_record() -> None:
    chain = audit.Chain()
    chain.take(LINES[0], begins_file=True)
    with pytest.raises(VerificationError, match="a file begins with"):
        chain.take(LINES[1], begins_file=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": -1},
        {"time": "2026-11-22 12:00"},
        {"boot_id": "x"},
        {"kind": "Key"},
        {"severity": "fatal"},
        {"caller": {"uid": 1}},
        {"caller": {**CALLER, "uid": 1 << 32}},
        {"caller": {**CALLER, "unit": "\x1b[0m"}},
        {"fields": {"a": [1]}},
        {"fields": {"a": "\u202e"}},
        {"fields": {"A": 1}},
        {"fields": {"a": "x" * 513}},
        {"fields": {f"a{number}": 1 for number in range(25)}},
        {"fields": []},
        {"more": 1},
    ],
)
def test_no_record_is_made_that_would_not_be_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        audit.record(audit.START, {**fields(1), **wrong})


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_record_or_a_typed_error(data: bytes) -> None:
    with pytest.raises(TeeAgentError):
        audit.read(data)


def test_the_torn_end_is_told_from_the_whole_one_at_every_cut() -> None:
    ends = [position + 1 for position, byte in enumerate(DATA) if byte == 10]
    for length in range(1, len(DATA) + 1):
        found = tail(DATA[:length], whole=True)
        whole = [end for end in ends if end <= length]
        assert len(found.torn) == length - (whole[-1] if whole else 0)
        assert (found.last.seq if found.last else -1) == len(whole) - 1
        assert not found.damage
        if found.last:
            assert found.head == audit.digest(LINES[found.last.seq])


def test_a_window_may_begin_within_a_line() -> None:
    found = tail(DATA[10:], whole=False)
    assert [record.seq for record in found.records] == [1, 2, 3, 4]
    assert tail(b"x" * 100, whole=False).last is None


def test_damage_further_up_is_told_and_stays() -> None:
    for data in (
        b"".join(line + b"\n" for line in (*LINES[:2], *LINES[3:])),
        DATA.replace(b'"n/2"', b'"n/7"'),
        DATA.replace(LINES[2], b"\0" * len(LINES[2])),
    ):
        found = tail(data, whole=True)
        assert found.last is not None
        assert found.last.seq == 4
        assert not found.torn
        assert "does not follow" in found.damage


def test_zeros_and_noise_at_the_end_are_torn() -> None:
    for noise in (b"\0" * 4096, b"\n", b"{}\n", b"\n" + b"x" * 20_000 + b"\n"):
        found = tail(DATA + noise, whole=True)
        assert found.torn == noise
        assert found.head == HEAD
