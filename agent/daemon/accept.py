"""Which of the forms that an endpoint has the caller takes: the Accept header (RFC 9110, sections 12.4 and 12.5.1).

Strict: what is no list of media ranges is an error, never a guess. Bounded, for callers write it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.core.canonical import shown
from agent.core.errors import UsageError

MAX_BYTES, MAX_RANGES = 1024, 32
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_RANGE = re.compile(rf"(?P<type>{_WORD})/(?P<subtype>{_WORD})", re.ASCII)
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?P<name>{_WORD})=(?:(?P<token>{_WORD})|"(?P<text>[^"\\]*)")', re.ASCII)
_NEXT = re.compile(r"[ \t]*(?:,[ \t]*)+", re.ASCII)
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)
_MALFORMED = "Accept is not a list of media ranges"


@dataclass(frozen=True, slots=True)
class _Range:
    """``parameters`` as ``name=value``, names and types in lower case; ``weight`` in thousandths."""

    type: str
    subtype: str
    parameters: frozenset[str]
    weight: int

    def precedence(self, media_type: str) -> int:
        """How closely it names ``media_type``: 0 not at all; the closest range of a header decides."""
        name, *given = media_type.split("; ")
        main, _, sub = name.partition("/")
        if not self.parameters <= frozenset(given):
            return 0
        if (self.type, self.subtype) == (main, sub):
            return 4 + len(self.parameters)
        # What is JSON by its suffix (RFC 6839) is taken by who takes JSON: curl --json says so unasked.
        if (self.type, self.subtype, main) == ("application", "json", "application") and sub.endswith("+json"):
            return 3
        return {(main, "*"): 2, ("*", "*"): 1}.get((self.type, self.subtype), 0)


def choose(header: str, offered: Sequence[str]) -> str:
    """The one of ``offered`` (the endpoint's, best first, lower case) with the greatest weight; "" takes anything.

    Raises UsageError: ``usage`` for a header that is none, ``usage.accept`` where none of them is taken.
    """
    if header in ("", "*/*"):
        return offered[0]
    ranges = _ranges(header)
    if not ranges:
        return offered[0]
    weights = [_weight(ranges, media_type) for media_type in offered]
    if not max(weights):
        raise UsageError(
            f"the answer would be {' or '.join(offered)}, and Accept takes neither"
            if len(offered) > 1
            else f"the answer would be {offered[0]}, and Accept does not take it",
            hint="leave Accept out for the first; curl --json sends one, -H 'Accept:' does not",
            code="usage.accept",
        )
    return offered[weights.index(max(weights))]


def _weight(ranges: Sequence[_Range], media_type: str) -> int:
    """Of the closest range; of several as close, the first."""
    closest = max(ranges, key=lambda one: one.precedence(media_type), default=None)
    return closest.weight if closest and closest.precedence(media_type) else 0


def _ranges(header: str) -> list[_Range]:
    if len(header) > MAX_BYTES:
        raise UsageError(f"Accept has more than {MAX_BYTES} characters")
    found: list[_Range] = []
    at = len(header) - len(header.lstrip(" \t,"))
    end = len(header.rstrip(" \t,"))
    while at < end:
        one, at = _range(header, at)
        found.append(one)
        step = _NEXT.match(header, at)
        if len(found) > MAX_RANGES or (at < end and not step):
            raise UsageError(f"{_MALFORMED}: {shown(header)}")
        at = step.end() if step else at
    return found


def _range(header: str, at: int) -> tuple[_Range, int]:
    """The range at this place, and where it ends. What follows the weight is an extension, and is not looked at."""
    match = _RANGE.match(header, at)
    if not match or (match["type"] == "*" and match["subtype"] != "*"):
        raise UsageError(f"{_MALFORMED}: {shown(header)}")
    at, weight, parameters = match.end(), None, set[str]()
    while parameter := _PARAMETER.match(header, at):
        at, name = parameter.end(), parameter["name"].lower()
        value = parameter["token"] if parameter["token"] is not None else parameter["text"]
        if name == "q" and weight is None:
            weight = _thousandths(value, header)
        elif weight is None:
            parameters.add(f"{name}={value}")
    one = _Range(
        match["type"].lower(), match["subtype"].lower(), frozenset(parameters), 1000 if weight is None else weight
    )
    return one, at


def _thousandths(value: str, header: str) -> int:
    if not _WEIGHT.fullmatch(value):
        raise UsageError(f"{_MALFORMED}: {shown(header)}", hint="a weight is 0 to 1 with three decimals at the most")
    return round(float(value) * 1000)
