"""Batches of payloads, as a client writes them."""

from __future__ import annotations

import base64
import json
from typing import Any


def batch(*payloads: Any) -> bytes:
    return json.dumps({"payloads": list(payloads)}).encode()


def data(value: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(value).decode()}
