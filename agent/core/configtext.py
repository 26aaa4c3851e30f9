"""A configuration as TOML: what ``setup`` writes, and what ``config show`` prints. The way back is config.parse.

Pure. Keys, sections and their order come from agent.core.config's own table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from agent.core.config import SECTIONS, Config, Key, Pin

HEADER = "# Written by tee-agent setup; tee-agent.toml(5) has every key. After a change: update-initramfs -u\n"
_ATTRIBUTES = {"volume": "volumes"}
"""Sections whose attribute in the tree has another name."""


def render(config: Config, *, defaults: bool) -> str:
    """``config`` as TOML that parses to the same tree. Without ``defaults``, only what differs from them."""
    parts = [part for section in SECTIONS for part in _tables(config, section, defaults=defaults)]
    return "\n".join(parts)


def _tables(config: Config, section: str, *, defaults: bool) -> Iterator[str]:
    found = getattr(config, _ATTRIBUTES.get(section, section))
    for one in found if isinstance(found, tuple) else (found,):
        lines = list(_lines(one, SECTIONS[section], defaults=defaults)) if one is not None else []
        if lines:
            yield "\n".join([_heading(section, one), *lines, ""])


def _heading(section: str, table: Any) -> str:
    if section == "secrets":
        return f"[{section}.{_string(table.name)}]"
    return f"[[{section}]]" if section in _ATTRIBUTES else f"[{section}]"


def _lines(table: Any, keys: Mapping[str, Key], *, defaults: bool) -> Iterator[str]:
    usual = {field.name: field.default for field in fields(table)}
    for name in keys:
        value = getattr(table, name)
        is_default = usual[name] is not MISSING and value == usual[name]
        if value is None or (is_default and not defaults):
            continue
        yield f"{name} = {_value(value)}{'  # default' if is_default else ''}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(int(value) if value == int(value) else value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, bytes):
        return _string(f"sha256:{value.hex()}")
    if isinstance(value, Pin | Path):
        return _string(str(value))
    return _string(value)


def _string(text: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's."""
    return json.dumps(text, ensure_ascii=False)
