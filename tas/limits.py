"""How much one address may ask: a fixed window of a minute, counted per address and route (TAS-PROTOCOL, section 1)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

WINDOW_SECONDS = 60
MAX_COUNTERS = 1 << 16
"""Counters in one window: addresses beyond share one, so memory is bounded whoever calls."""


@dataclass(frozen=True, slots=True)
class Standing:
    """``reset`` is the window's end in Unix seconds, ``retry_after`` whole seconds until then."""

    allowed: bool
    limit: int
    remaining: int
    reset: int
    retry_after: int

    def headers(self) -> dict[str, str]:
        """As on the wire, but Retry-After only where there is something to wait for."""
        if not self.limit:
            return {}
        counters = {"Limit": self.limit, "Remaining": self.remaining, "Reset": self.reset}
        headers = {f"X-RateLimit-{name}": str(value) for name, value in counters.items()}
        return headers if self.allowed else {**headers, "Retry-After": str(self.retry_after)}


class RateLimiter:
    """``limit`` requests a minute; 0 is no limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._window = 0
        self._counts: dict[tuple[str, str], int] = {}

    def hit(self, address: str, route: str, now: float) -> Standing:
        """Count one request at ``now`` (Unix seconds)."""
        window = int(now) // WINDOW_SECONDS
        if window != self._window:
            self._window, self._counts = window, {}
        reset = (window + 1) * WINDOW_SECONDS
        key = (client_network(address), route)
        if key not in self._counts and len(self._counts) >= MAX_COUNTERS:
            key = ("others", route)
        count = self._counts.get(key, 0) + 1
        self._counts[key] = count
        allowed = not self.limit or count <= self.limit
        return Standing(allowed, self.limit, max(0, self.limit - count), reset, max(1, int(reset - now)))


@lru_cache(4096)
def is_loopback(address: str) -> bool:
    """Whether this machine itself is calling."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@lru_cache(4096)
def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or an IPv6 /64, of which a host has as many as it likes."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
