"""What `evidence verify` compares REPORT_DATA with, from the command line."""

from __future__ import annotations

import argparse

import pytest

from agent.core import binding
from agent.core.binding import Scope
from agent.core.errors import UsageError
from agent.verify import options

BOOT_ID = "7f1c1d4e-0000-4000-8000-0123456789ab"
NONCE = "00" * 16


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_binding(parser)
    return parser.parse_args(words)


def test_nothing_asked_is_nothing_compared() -> None:
    assert options.report_data(parsed()) is None


@pytest.mark.parametrize("audience", ["", "web", "ä" * 128])
def test_the_binding_of_purpose_collect(audience: str) -> None:
    words = ["--nonce", NONCE, "--boot-id", BOOT_ID, *(["--audience", audience] if audience else [])]
    assert options.report_data(parsed(*words)) == binding.collect(Scope(audience, BOOT_ID), bytes(16))


@pytest.mark.parametrize(
    "words",
    [
        ["--boot-id", BOOT_ID],
        ["--audience", "web"],
        ["--nonce", NONCE],
        ["--nonce", NONCE, "--boot-id", ""],
        ["--nonce", NONCE, "--boot-id", BOOT_ID.upper()],
        ["--nonce", NONCE, "--boot-id", BOOT_ID + "\n"],
        ["--nonce", "00" * 15, "--boot-id", BOOT_ID],
        ["--nonce", "00" * 65, "--boot-id", BOOT_ID],
        ["--nonce", "xy" * 16, "--boot-id", BOOT_ID],
        ["--nonce", "", "--boot-id", BOOT_ID],
        ["--nonce", NONCE, "--boot-id", BOOT_ID, "--audience", "ä" * 129],
        ["--nonce", NONCE, "--boot-id", BOOT_ID, "--audience", "\udcff"],
    ],
)
def test_half_a_binding_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        options.report_data(parsed(*words))
