"""Reads requests: bodies of bounded size and patience, queries and JSON with exactly the known fields."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agent.core import canonical
from agent.core.bundle import TEXT_BYTES, Payload
from agent.core.errors import FormatError, Oversized, UsageError
from agent.daemon.web import Request, RequestPayloadError

MAX_PAYLOAD = 1 << 30
"""Bytes that are hashed for one signature at the most."""
MAX_JSON = 64 * 1024
STALL_SECONDS, TOTAL_SECONDS = 15.0, 900.0
"""Between two chunks of a body, and for all of it."""


async def chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Oversized, FormatError for a broken one, UsageError for one that stalls."""
    if (request.content_length or 0) > most:
        raise Oversized(f"the body has more than {most} bytes", record="body")
    await _continue(request)
    size, until = 0, asyncio.get_running_loop().time() + TOTAL_SECONDS
    while not request.content.at_eof():
        chunk = await _next(request, until)
        size += len(chunk)
        if size > most:
            raise Oversized(f"the body has more than {most} bytes", record="body")
        yield chunk


async def _next(request: Request, until: float) -> bytes:
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + STALL_SECONDS)):
            return await request.content.readany()
    except TimeoutError as error:
        raise UsageError("the body did not come in time", code="usage.timeout") from error
    except RequestPayloadError as error:
        raise FormatError("the body is not what its headers say", record="body") from error


async def _continue(request: Request) -> None:
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def payload(request: Request) -> Payload:
    """SHA-512 and size of the body, in constant memory."""
    digest, size = hashlib.sha512(), 0
    async for chunk in chunks(request, MAX_PAYLOAD):
        digest.update(chunk)
        size += len(chunk)
    return Payload(digest.digest(), size)


async def document(request: Request, required: frozenset[str], defaults: Mapping[str, Any]) -> canonical.Reader:
    """A JSON object with the required fields and those of ``defaults`` that are given. Raises as chunks."""
    data = b"".join([chunk async for chunk in chunks(request, MAX_JSON)])
    found = canonical.parse(data, "request", MAX_JSON)
    return canonical.Reader({**defaults, **found}, "request", required | defaults.keys())


def query(request: Request, known: frozenset[str]) -> dict[str, str]:
    """The query, each name once and known. Raises UsageError."""
    if not request.query_string:
        return {}
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known or name in found:
            raise UsageError(
                f"query: {canonical.shown(name)} is unknown or given twice", hint=f"known: {', '.join(sorted(known))}"
            )
        found[name] = value
    return found


def text(value: str, name: str) -> str:
    """Context or audience. Raises FormatError."""
    if not canonical.is_text(value, TEXT_BYTES):
        raise FormatError(f"{name}: text of at most {TEXT_BYTES} bytes without control characters", record="request")
    return value
