"""The HTTP messages that handlers see: a request as it comes in, the answer to it."""

from __future__ import annotations

from aiohttp.web import BaseRequest as Request
from aiohttp.web import RequestPayloadError, Response

__all__ = ["Request", "RequestPayloadError", "Response"]
