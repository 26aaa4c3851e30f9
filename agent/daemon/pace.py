"""How long after one quote to ask for the next, where asking sooner would not give it sooner.

Hosts that ration quotes answer one at a fixed time after the last, whenever it was asked for: then a tree that closes
late holds more challenges, and costs nobody anything. Other hosts take their time for every quote: then each pause is
lost. Which kind this one is shows when a pause is tried: it was free when the quote came as soon as without.
"""

from __future__ import annotations

LEAST_SECONDS = 0.1
"""Quotes that take less are asked for at once."""
STEADY = 4
"""So many quotes in a row, asked for without a pause, must have taken the same time before a pause is tried."""
TOLERANCE = 0.15
"""How far such times may be apart, and how much later a quote may come for a pause to count as free."""
FIRST, MOST = 0.2, 0.75
"""Parts of a quote's time: the first pause that is tried, and the longest."""
AGAIN = 32
"""So many quotes after a pause that was not free, or that was never doubted, the time is taken anew."""


class Pace:
    """Learns from ``told``; ``pause`` is what to keep, in seconds after the end of the quote before."""

    def __init__(self) -> None:
        self.pause = 0.0
        self._full: list[float] = []
        self._rest = 0

    def told(self, waited: float, took: float) -> None:
        """A quote was asked for ``waited`` seconds after the one before had ended, and took ``took`` seconds."""
        if self.pause:
            self._judge(waited, took)
        elif waited <= TOLERANCE * took:
            self._learn(took)

    def _learn(self, took: float) -> None:
        self._full = [*self._full[1 - STEADY :], took]
        self._rest = max(0, self._rest - 1)
        steady = len(self._full) == STEADY and max(self._full) <= (1 + TOLERANCE) * min(self._full)
        if steady and min(self._full) >= LEAST_SECONDS and not self._rest:
            self.pause = FIRST * min(self._full)

    def _judge(self, waited: float, took: float) -> None:
        full = min(self._full)
        if abs(waited - self.pause) > TOLERANCE * full:
            return  # nobody had asked, or the tree was full: that says nothing about the pause
        self._rest += 1
        if waited + took > (1 + TOLERANCE) * full:
            self.pause, self._rest = 0.0, AGAIN
            self._full.clear()
        elif self._rest >= AGAIN:
            # The host may have become faster: a pause would hide it.
            self.pause, self._rest = 0.0, 0
            self._full = [full]
        else:
            self.pause = min(MOST * full, 2 * self.pause)
