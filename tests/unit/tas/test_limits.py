"""The rate limit: per client and route, for a minute, with bounded memory."""

from __future__ import annotations

import pytest

from tas import limits
from tas.limits import RateLimiter, client_network


def test_counts_per_client_and_route() -> None:
    limiter = RateLimiter(2)
    asked = [("10.0.0.1", "/a"), ("10.0.0.1", "/a"), ("10.0.0.1", "/a"), ("10.0.0.1", "/b"), ("10.0.0.2", "/a")]
    standings = [limiter.hit(*who, now=120.5) for who in asked]
    assert [standing.allowed for standing in standings] == [True, True, False, True, True]
    assert [standing.remaining for standing in standings] == [1, 0, 0, 1, 1]


def test_next_window_begins_anew() -> None:
    limiter = RateLimiter(1)
    assert [limiter.hit("a", "/", now).allowed for now in (60.0, 119.9, 120.0, 179.0, 180.0)] == [
        True,
        False,
        True,
        False,
        True,
    ]


def test_headers() -> None:
    limiter = RateLimiter(1)
    granted, refused = (limiter.hit("10.0.0.1", "/", 130.2).headers() for _ in range(2))
    common = {"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "180"}
    assert granted == common
    assert refused == {**common, "Retry-After": "49"}


def test_zero_is_no_limit() -> None:
    limiter = RateLimiter(0)
    standing = [limiter.hit("10.0.0.1", "/", 1.0) for _ in range(1000)][-1]
    assert standing.allowed
    assert standing.headers() == {}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_COUNTERS", 4)
    limiter = RateLimiter(2)
    standings = [limiter.hit(f"10.0.0.{host}", "/", 1.0) for host in range(100)]
    assert [standing.allowed for standing in standings].count(True) == 6
    assert limiter.hit("10.0.0.0", "/", 1.0).allowed


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_one_client(address: str, network: str) -> None:
    assert client_network(address) == network
