"""The record of the checks of a verification, in the order made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agent.core.errors import VerificationError
from agent.core.model import Check


class Ledger:
    """``titles`` names each check by its number."""

    def __init__(self, titles: Mapping[int, str]) -> None:
        self.titles = titles
        self.made: list[Check] = []

    @contextmanager
    def check(self, number: int) -> Iterator[list[str]]:
        """The block is check ``number``; what it appends is the detail of a check that passed.

        A VerificationError leaves the block carrying all checks made, the failed one last.
        """
        detail: list[str] = []
        try:
            yield detail
        except VerificationError as error:
            self.made.append(Check(number, self.titles[number], ok=False, detail=error.message))
            error.checks = tuple(self.made)
            raise
        self.made.append(Check(number, self.titles[number], ok=True, detail=", ".join(detail)))
