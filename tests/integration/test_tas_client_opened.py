"""What the client is opened with: configuration, API key, time."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.config import Config
from agent.core.errors import (
    ConfigError,
)
from agent.quoter import Quoter
from agent.session import open_tas, read_api_key, trusted_time
from tests.support.quotes import Bound


def test_no_tas_in_the_configuration() -> None:
    with pytest.raises(ConfigError, match="no attestation service"):
        open_tas(Config("f"), quotes=Bound())


@pytest.mark.parametrize("text", ["", "two words", "a\nb", "schl\u00fcssel", "x" * 1025, "x" * 5000])
def test_api_keys_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "api-key"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_api_key(path)


def test_time_is_never_before_the_image_was_built(tmp_path: Path) -> None:
    stamp = tmp_path / "build-time"
    now = trusted_time(stamp)
    stamp.write_text(f"{int(now.timestamp()) + 86_400}\n")
    assert trusted_time(stamp) > now
    assert trusted_time(stamp).tzinfo is not None
    for text in ("0", "-5", "soon", "9" * 40, "", "9" * 100):
        stamp.write_text(text)
        assert abs((trusted_time(stamp) - now).total_seconds()) < 3600


def test_the_protocol_of_quotes_is_met() -> None:
    """The stand-in for quotes has the real one's methods, so it can't drift."""
    public = {name for name in dir(Quoter) if not name.startswith("_")}
    assert public == {name for name in dir(Bound) if not name.startswith("_")}
