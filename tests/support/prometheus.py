"""A strict reader of Prometheus' text format 0.0.4, written from its description and sharing nothing with ours.

https://prometheus.io/docs/instrumenting/exposition_formats/ and .../practices/naming/: what a lenient reader would
forgive (a family in two places, a counter that is not called one, a sample without a type) is an error here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? ([^ ]+)")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|Inf|NaN)")
_TYPES = {"counter": ("",), "gauge": ("",), "summary": ("_sum", "_count", "")}
_UNITS = ("_seconds", "_bytes", "_total", "_ratio", "_info")

Labels = tuple[tuple[str, str], ...]


@dataclass
class Family:
    """One metric: samples by (name, labels)."""

    help: str
    type: str = ""
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """All families by name. Raises ValueError for what is not well-formed, or breaks the naming conventions."""
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    families: dict[str, Family] = {}
    name = ""
    for line in text[:-1].split("\n"):
        word, _, rest = line.partition(" ")
        if word == "#":
            name = _comment(rest, name, families)
        elif not name or not families[name].type:
            raise ValueError(f"a sample before HELP and TYPE: {line!r}")
        else:
            _sample(line, name, families[name])
    for name, family in families.items():
        _require_conventions(name, family)
    return families


def _comment(rest: str, name: str, families: dict[str, Family]) -> str:
    kind, said, text = [*rest.split(" ", 2), "", ""][:3]
    if not re.fullmatch(_NAME, said) or not text:
        raise ValueError(f"an empty or nameless {kind}")
    if kind == "HELP" and said not in families:
        if not re.fullmatch(r"(?:[^\\]|\\[\\n])*", text):
            raise ValueError(f"a bad escape in the help of {said}")
        families[said] = Family(text)
    elif kind == "TYPE" and said == name and not families[name].type and text in _TYPES:
        families[name].type = text
    else:
        raise ValueError(f"not HELP, then TYPE, once each: {rest!r}")
    return said


def _sample(line: str, name: str, family: Family) -> None:
    match = _SAMPLE.fullmatch(line)
    if not match or not _NUMBER.fullmatch(match[3]):
        raise ValueError(f"no sample: {line!r}")
    if match[1] not in {name + suffix for suffix in _TYPES[family.type]}:
        raise ValueError(f"a sample of another family: {line!r}")
    key = (match[1], _labels(match[2] or ""))
    if key in family.samples:
        raise ValueError(f"twice: {line!r}")
    family.samples[key] = float(match[3])


def _labels(text: str) -> Labels:
    found, place = [], 0
    while place < len(text):
        match = _LABEL.match(text, place)
        if not match:
            raise ValueError(f"no label: {text[place:]!r}")
        value = re.sub(r"\\(.)", lambda escape: {"n": "\n"}.get(escape[1], escape[1]), match[2])
        found.append((match[1], value))
        place = match.end()
        if place < len(text):
            if text[place] != "," or place + 1 == len(text):
                raise ValueError(f"labels are parted by commas: {text!r}")
            place += 1
    if len({name for name, _ in found}) != len(found):
        raise ValueError(f"a label twice: {text!r}")
    return tuple(sorted(found))


def _require_conventions(name: str, family: Family) -> None:
    if not family.type:
        raise ValueError(f"{name} has no type")
    if (family.type == "counter") != name.endswith("_total"):
        raise ValueError(f"counters and nothing else end in _total: {name}")
    if family.type == "counter" and any(value < 0 for value in family.samples.values()):
        raise ValueError(f"a counter below zero: {name}")
    if re.search(r"(milli|micro|nano)seconds|_ms(_|$)|kilobytes|minutes|hours", name):
        raise ValueError(f"base units only: {name}")
