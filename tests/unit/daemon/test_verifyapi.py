"""What comes back from where a question was read may be anything: only a verdict is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.core.errors import ServerError, UsageError
from agent.daemon import verifyapi

VERDICT: dict[str, Any] = {"valid": True, "checks": []}


def test_a_verdict_is_passed_on_and_its_status_says_which() -> None:
    said = json.dumps(VERDICT).encode()
    for mark, status in ((b"+", 200), (b"-", 422)):
        response = verifyapi._response(mark + said)
        assert (response.status, json.loads(response.body)) == (status, VERDICT)


def test_an_error_is_raised_as_what_it_is() -> None:
    with pytest.raises(UsageError, match="say which workload"):
        verifyapi._response(b'!{"code": "usage", "message": "say which workload", "hint": ""}')


@pytest.mark.parametrize(
    "answer",
    [b"+", b"+[]", b"+{", b"+" + b"[" * 100_000, b"+" + b'{"a":' * 100_000, b"!7", b"-\xff", b"{}", b"?{}", b"echo"],
)
def test_anything_else_is_no_verdict_and_not_the_caller_s_fault(answer: bytes) -> None:
    with pytest.raises(ServerError, match="without a verdict") as caught:
        verifyapi._response(answer)
    assert caught.value.code == "server.verify"
