"""What every parser promises for any bytes at all, and one run of it.

1. Only TeeAgentError leaves, with a code, in one message of bounded length that can't repaint a terminal.
2. It ends: a run of the fuzzer kills an input after ``SECONDS``.
3. It takes less than ``GROWTH`` bytes of memory beyond what the process had.
What a parser gives back is checked by the targets themselves: most write it again and compare.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core.errors import TeeAgentError

if TYPE_CHECKING:
    from tests.fuzz.samples import Samples

SECONDS = 10
GROWTH = 64 << 20
MESSAGE = 2000
"""Characters of a message and its hint at the most."""
_CODE = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", re.ASCII)
_REPAINTS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Broken(AssertionError):
    """The contract does not hold for this input."""


@dataclass(frozen=True)
class Target:
    """One parser. ``seeds`` are good samples, made when asked for; ``words`` what its inputs are made of.

    ``vectors`` are patterns below the folder of genuine vectors, for runs with ``--vectors``; ``most`` is the longest
    input that is generated, in bytes.
    """

    call: Callable[[bytes], object]
    seeds: Callable[[Samples], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    vectors: tuple[str, ...] = ()
    most: int = 8192


def hold(target: Target, data: bytes) -> None:
    """One run. Raises whatever breaks the contract: Broken, or the foreign exception itself."""
    before = peak()
    try:
        target.call(data)
    except TeeAgentError as error:
        _check(error)
    if (grown := peak() - before) > GROWTH:
        raise Broken(f"{grown >> 20} MiB of memory for {len(data)} bytes")


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _check(error: TeeAgentError) -> None:
    text = error.diagnostics()
    if not error.message or len(text) > MESSAGE or _REPAINTS.search(text):
        raise Broken(f"{type(error).__name__} has a message that is not fit to be shown: {text[:200]!a}") from error
    if not _CODE.fullmatch(error.code):
        raise Broken(f"{type(error).__name__} has the code {error.code[:200]!a}") from error
