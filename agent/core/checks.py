"""Checks of single configuration values: each takes a value and its place, and returns it typed or refuses it.

Refusals are ConfigError (exit 78); they name file, key, what was expected and what stood there.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from agent.core.canonical import printable
from agent.core.errors import ConfigError

T = TypeVar("T")

_TOML_NAMES = {str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "an array"}
_SHOWN_KEY = 200
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_POLICY_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}\$?|[0-9]{1,10}", re.ASCII)
_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_PIN = re.compile(r"(spki|ca):sha256:([0-9A-Fa-f]{64})", re.ASCII)
_SHA256 = re.compile(r"sha256:([0-9A-Fa-f]{64})", re.ASCII)
_NETWORK = re.compile(r"dhcp|none|[A-Za-z0-9.:_-]*:[A-Za-z0-9.:_-]*", re.ASCII)
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*", re.ASCII)
_FAR = 10**15
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class At:
    """A place in a configuration: file and dotted key."""

    source: str
    key: str

    def under(self, name: str) -> At:
        return At(self.source, f"{self.key}.{name}" if self.key else name)

    def refuse(self, problem: str, *, hint: str = "", code: str = "config.value") -> ConfigError:
        # A key is foreign text too: TOML lets it hold control characters, and be as long as the file.
        place = f"{self.source}: {printable(self.key[:_SHOWN_KEY])}" if self.key else self.source
        return ConfigError(f"{place}: {problem}", hint=hint, code=code)

    def wrong(self, expected: str, value: Any) -> ConfigError:
        got = _TOML_NAMES.get(type(value), "a table" if isinstance(value, dict) else type(value).__name__)
        return self.refuse(f"must be {expected}, not {got}", code="config.type")


def known(table: Mapping[str, Any], names: Iterable[str], at: At) -> None:
    """Refuse keys that mean nothing here; the nearest known one is suggested."""
    allowed = list(names)
    for name in table:
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(allowed)}"
            raise at.under(name).refuse("unknown key", hint=hint, code="config.unknown-key")


def text(most: int) -> Callable[[Any, At], str]:
    """A printable string of at most ``most`` characters."""

    def check(value: Any, at: At) -> str:
        if not isinstance(value, str):
            raise at.wrong("a string", value)
        if len(value) > most or (value and not value.isprintable()):
            raise at.refuse(f"must be printable and have at most {most} characters")
        return value

    return check


def _matching(pattern: re.Pattern[str], form: str) -> Callable[[Any, At], str]:
    def check(value: Any, at: At) -> str:
        given = text(4096)(value, at)
        if not pattern.fullmatch(given):
            raise at.refuse(f"must be {form}, not {given[:80]!r}")
        return given

    return check


name = _matching(_NAME, "1 to 64 letters, digits, _ . - (not beginning with . or -)")
policy_id = _matching(_POLICY_ID, "1 to 128 letters, digits, _ . -")
network = _matching(_NETWORK, "dhcp, none, or client:server:gateway:netmask:host:device:how")
account = _matching(_ACCOUNT, "a user or group name, or a decimal id")


def path(value: Any, at: At) -> Path:
    """An absolute path."""
    given = text(4096)(value, at)
    if not given.startswith("/"):
        raise at.refuse(f"must be an absolute path, not {given[:80]!r}")
    return Path(given)


def device(value: Any, at: At) -> str:
    """``/path`` or ``UUID=...``."""
    given = text(4096)(value, at)
    if given.startswith("/") or (given.startswith("UUID=") and _UUID.fullmatch(given[5:])):
        return given
    raise at.refuse(f"must be an absolute path or UUID=..., not {given[:80]!r}")


def choice(*words: str) -> Callable[[Any, At], str]:
    def check(value: Any, at: At) -> str:
        given = text(4096)(value, at)
        if given not in words:
            raise at.refuse(f"must be one of {', '.join(words)}, not {given[:80]!r}")
        return given

    return check


def boolean(value: Any, at: At) -> bool:
    if not isinstance(value, bool):
        raise at.wrong("a boolean", value)
    return value


def sha256(value: Any, at: At) -> bytes:
    """The 32 bytes of ``sha256:<hex>``."""
    given = text(256)(value, at)
    match = _SHA256.fullmatch(given)
    if match is None:
        raise at.refuse(f"must be sha256:<64 hex>, not {given[:80]!r}")
    return bytes.fromhex(match[1])


def _figure(value: float) -> str:
    """A number for a message; hex digits in TOML can make one that Python refuses to write down."""
    return "what is far outside" if isinstance(value, int) and abs(value) > _FAR else f"{value}"


def seconds(least: float, most: float) -> Callable[[Any, At], float]:
    def check(value: Any, at: At) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise at.wrong("a number of seconds", value)
        if not least <= value <= most:
            raise at.refuse(f"must be {least:g} to {most:g} seconds, not {_figure(value)}")
        return float(value)

    return check


def integer(least: int, most: int) -> Callable[[Any, At], int]:
    def check(value: Any, at: At) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise at.wrong("an integer", value)
        if not least <= value <= most:
            raise at.refuse(f"must be {least} to {most}, not {_figure(value)}")
        return value

    return check


def several(check_one: Callable[[Any, At], T], *, least: int, most: int) -> Callable[[Any, At], tuple[T, ...]]:
    """An array of ``least`` to ``most`` different values."""

    def check(value: Any, at: At) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise at.wrong("an array", value)
        if not least <= len(value) <= most:
            raise at.refuse(f"must have {least} to {most} entries, not {len(value)}")
        values = tuple(check_one(one, At(at.source, f"{at.key}[{index}]")) for index, one in enumerate(value))
        if len(set(values)) != len(values):
            raise at.refuse("has an entry twice")
        return values

    return check


def pin(value: Any, at: At) -> tuple[str, bytes]:
    """Kind and digest of ``spki:sha256:<hex>`` or ``ca:sha256:<hex>``."""
    given = text(256)(value, at)
    match = _PIN.fullmatch(given)
    if match is None:
        raise at.refuse(f"must be spki:sha256:<64 hex> or ca:sha256:<64 hex>, not {given[:80]!r}")
    return match[1], bytes.fromhex(match[2])


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and literal loopback addresses; any other name may point anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def service_url(value: Any, at: At) -> str:
    """https://HOST[:PORT][/PREFIX], or http to this machine; returned without a trailing slash."""
    given = text(2048)(value, at)
    parts = _split(given, at)
    if parts.scheme not in ("https", "http") or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise at.refuse(f"must be https://HOST[:PORT][/PREFIX], not {given[:80]!r}")
    if parts.username is not None or parts.password is not None or "?" in given or "#" in given:
        raise at.refuse("must have no user, password, query or fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise at.refuse(
            f"plain http is allowed to this machine only, not to {parts.hostname}",
            hint="use https and pin the server's key",
            code="config.unsafe",
        )
    if not _PREFIX.fullmatch(parts.path.rstrip("/")):
        raise at.refuse("has a path with unusual characters")
    return given.rstrip("/")


def proxy_url(value: Any, at: At) -> str:
    """http://HOST:PORT or https://HOST:PORT without user and password, or "" for none."""
    given = text(2048)(value, at)
    if not given:
        return given
    parts = _split(given, at)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise at.refuse(f"must be http://HOST:PORT, not {given[:80]!r}")
    if parts.port is None or parts.username is not None or given.rstrip("/") != f"{parts.scheme}://{parts.netloc}":
        raise at.refuse("must be http://HOST:PORT, with no user, password, path or query")
    return given.rstrip("/")


def _split(given: str, at: At) -> SplitResult:
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError as error:
        raise at.refuse(f"is no URL: {error}") from error
    return parts
