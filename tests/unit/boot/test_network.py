"""The network helper: started, waited for, put back. The helper is a script that does what ipconfig would leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.boot import network
from agent.boot.network import Network
from agent.core.errors import TransportError
from agent.deadline import Deadline


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(network, "RESULTS", tmp_path)
    monkeypatch.setattr(network, "UP", tmp_path / "up")
    return tmp_path


def helper(results: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = results / "helper"
    script.write_text(f"#!/bin/sh\ncd {results}\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(network, "HELPER", str(script))


def test_it_comes_up_and_is_put_back(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(results, monkeypatch, 'echo "$1" >said; : >net-teeagentx0.conf; echo 12.34 >up')
    (results / "net-before.conf").touch()
    started = Network("dhcp")
    assert started.wait(Deadline(20, "boot")) == 12.34
    assert (results / "said").read_text() == "dhcp\n"
    started.down()
    assert [path.name for path in results.glob("net-*")] == ["net-before.conf"]


def test_a_helper_that_configures_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(results, monkeypatch, "exit 0")
    started = Network("dhcp")
    with pytest.raises(TransportError, match="no interface was configured") as caught:
        started.wait(Deadline(20, "boot"))
    assert caught.value.code == "transport.network"
    started.down()


def test_a_helper_that_never_ends_is_killed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(results, monkeypatch, "exec sleep 1000")
    started = Network("dhcp")
    with pytest.raises(TransportError, match="not done within"):
        started.wait(Deadline(0.2, "boot"))
    started.down()
    started.down()


def test_none_starts_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "HELPER", "/nonexistent")
    quiet = Network("none")
    quiet.wait(Deadline(1, "boot"))
    quiet.down()
