"""A role's own process, as far as no process is needed."""

from __future__ import annotations

import io

import pytest

from agent.daemon.role import Life


class Gone:
    """Standard error whose reader has left."""

    def write(self, _: str) -> None:
        """Kept for later, as a buffer does."""

    def flush(self) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_line_that_nobody_reads_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.daemon.role.Notifier", lambda **_: None)
    life = Life("signer", supervised=False)
    heard = io.StringIO()
    for stream in (Gone(), heard):
        monkeypatch.setattr("sys.stderr", stream)
        life.log("evidence is late")
    assert heard.getvalue() == "tee-agent signer: evidence is late\n"
