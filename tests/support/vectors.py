"""Where the genuine vectors are, and how a test names one. They are never copied into the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("TEE_AGENT_VECTORS", _REPOSITORY.parent / "shared" / "vectors"))


def cases(kind: str) -> list[Any]:
    """One pytest parameter per vector folder of ``kind`` (snp, tdx, eventlog); one skipped parameter without them."""
    folders = sorted(path for path in (ROOT / kind).glob("*") if (path / "meta.json").is_file())
    if folders:
        return [pytest.param(folder, id=folder.name) for folder in folders]
    reason = f"no vectors at {ROOT}: set TEE_AGENT_VECTORS"
    return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]


def meta(folder: Path) -> dict[str, Any]:
    """The vector's meta.json."""
    loaded: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return loaded
