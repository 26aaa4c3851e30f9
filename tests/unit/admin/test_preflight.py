"""Preflight and config check, part by part: what counts as a problem, and what only as a note."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from agent import session
from agent.admin import image, inspect, preflight, volumes
from agent.admin.image import Looked
from agent.core.config import Config, Pin, TasConfig, VolumeConfig
from agent.core.crypttab import Entry
from agent.core.errors import Denied, DiskError, TransportError
from agent.core.health import Finding
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.disk.unlock import Opened
from agent.transport.stdlib import Answer

TAS = TasConfig("https://tas.example", (Pin("spki", bytes(32)),), Path("/key"))
BY_AUTHORITY = dataclasses.replace(TAS, pins=(Pin("ca", bytes(32)),))
VAULT = VolumeConfig("vault", "/dev/vdb", ("a", "b"))
CONFIG = Config("f", TAS, volumes=(VAULT,))


class Service:
    """A transport that answers with these headers."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers

    def request(self, *_: object, **__: object) -> Answer:
        return Answer(200, self.headers, b"{}")


def clock(monkeypatch: pytest.MonkeyPatch, tas: TasConfig, **headers: str) -> Finding:
    monkeypatch.setattr(session, "open_transport", lambda _: Service(**headers))
    return preflight.clock(tas, Deadline(60, "test"))


def date(**off: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(**off), usegmt=True)


def test_clock_is_compared_with_the_service_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock(monkeypatch, TAS, date=date()).state == "ok"
    assert clock(monkeypatch, BY_AUTHORITY, date=date(seconds=-200)).state == "ok"


@pytest.mark.parametrize(("hours", "words"), [(-2, "ahead of"), (2, "behind")])
def test_a_wrong_clock_matters_to_authorities_pins(hours: float, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_key = clock(monkeypatch, TAS, date=date(hours=hours))
    assert (by_key.state, words in by_key.text) == ("note", True)
    assert clock(monkeypatch, BY_AUTHORITY, date=date(hours=hours)).state == "PROBLEM"


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": ""}])
def test_a_service_without_a_time_is_only_noted(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock(monkeypatch, BY_AUTHORITY, **headers).state == "note"


def opening(error: Exception | None = None) -> Callable[..., Any]:
    def test(_: VolumeConfig, **__: object) -> Opened:
        if error:
            raise error
        return Opened("uuid", 1, "a")

    return test


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> dict[str, Secret]:
    """The secrets that the service releases, by policy."""
    known: dict[str, Secret] = {}

    def fetch(policy_id: str, _: object) -> Secret:
        if policy_id not in known:
            raise Denied("no such policy")
        return known[policy_id]

    monkeypatch.setattr(preflight, "fetcher", lambda _: fetch)
    return known


def states(found: Iterator[Finding]) -> list[str]:
    return [one.state for one in found]


def test_a_volume_that_opens(released: dict[str, Secret], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "test", opening())
    assert states(preflight.volume(CONFIG, VAULT)) == ["ok", "note"]
    released["b"] = Secret(bytes(range(32)))
    assert states(preflight.volume(CONFIG, VAULT)) == ["ok", "ok"]
    assert len(released["b"]) == 0  # wiped
    released["b"] = Secret(b"short")
    assert states(preflight.volume(CONFIG, VAULT)) == ["ok", "note"]
    assert len(released["b"]) == 0


def test_a_volume_that_does_not(released: dict[str, Secret], monkeypatch: pytest.MonkeyPatch) -> None:
    released["a"] = Secret(bytes(range(32)))
    monkeypatch.setattr(preflight, "test", opening(DiskError("broken", hint="mend it")))
    found = list(preflight.volume(CONFIG, VAULT))
    assert states(iter(found)) == ["PROBLEM", "ok", "note"]
    assert (found[0].text, found[0].hint) == ("would not open: broken; else: prompt", "mend it")


@pytest.mark.parametrize(
    ("looked", "state"),
    [
        (Looked("current", "", frozenset({"vault"})), "ok"),
        (Looked("stale", "", frozenset({"vault"})), "PROBLEM"),
        (Looked("not installed", ""), "PROBLEM"),
        (Looked("unknown", ""), "PROBLEM"),
    ],
)
def test_the_initramfs_of_a_volume_of_the_boot(looked: Looked, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "look", lambda *_: looked)
    monkeypatch.setattr(volumes, "entries", lambda: (Entry("vault", "/dev/vdb"),))
    assert states(preflight.initramfs(CONFIG)) == [state]


@pytest.mark.parametrize("looked", [Looked("not installed", ""), Looked("unknown", "")])
def test_without_a_volume_of_the_boot_it_does_not_matter(looked: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "look", lambda *_: looked)
    monkeypatch.setattr(volumes, "entries", tuple)
    found = list(preflight.initramfs(CONFIG))
    assert states(iter(found)) == ["note", "note"]
    assert found[1].subject == "volume vault"


def test_the_service_s_answers_to_config_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(error: Exception) -> Callable[..., str]:
        def ask(*_: object) -> str:
            raise error

        return ask

    for error, state in ((TransportError("away"), "note"), (Denied("bad key"), "PROBLEM")):
        monkeypatch.setattr(inspect, "asked", asked(error))
        assert inspect.service(CONFIG, Deadline(60, "test")).state == state
    assert inspect.service(Config("f"), Deadline(60, "test")).state == "note"


def test_files_that_are_missing_or_others_may_write(tmp_path: Path) -> None:
    source, key = tmp_path / "f.toml", tmp_path / "key"
    source.write_text("")
    config = Config(str(source), dataclasses.replace(TAS, api_key_file=key))
    ours = "ok" if source.stat().st_uid == 0 else "PROBLEM"
    assert states(inspect.files(config)) == [ours, "PROBLEM"]
    key.write_text("k")
    key.chmod(0o600)
    assert states(inspect.files(config)) == [ours, ours]
    key.chmod(0o644)
    assert states(inspect.files(config)) == [ours, ours, "note"]
    source.chmod(0o664)
    key.chmod(0o660)
    assert states(inspect.files(config)) == ["PROBLEM", "PROBLEM", "note"]
