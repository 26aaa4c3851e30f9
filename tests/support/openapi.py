"""The agent's OpenAPI document: docs/openapi.yaml is written by hand, agent/daemon/openapi.json made from it.

``python -m tests.support.openapi`` writes the second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs" / "openapi.yaml"
TARGET = ROOT / "agent" / "daemon" / "openapi.json"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def document() -> dict[str, Any]:
    """What the source says."""
    found: dict[str, Any] = yaml.safe_load(SOURCE.read_text())
    return found


def rendered() -> str:
    """The same as JSON; a line for each value, so that two changes meet in version control as they do in the source."""
    return json.dumps(document(), ensure_ascii=False, indent=1) + "\n"


def operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method (in capitals) and description of each operation."""
    for path, item in found["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method.upper(), item[method]


def objects(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every JSON object in a document, with its place."""
    if isinstance(node, dict):
        yield where, node
        for name, value in node.items():
            yield from objects(value, f"{where}/{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from objects(value, f"{where}/{index}")


if __name__ == "__main__":
    TARGET.write_text(rendered())
