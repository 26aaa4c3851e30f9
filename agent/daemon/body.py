"""Reads requests: bodies of bounded size and patience, queries and JSON with exactly the known fields."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from agent.core import canonical
from agent.core.bundle import TEXT_BYTES, Payload
from agent.core.errors import FormatError, Oversized, UsageError
from agent.daemon.web import Request

MAX_PAYLOAD = 1 << 30
"""Bytes that are hashed for one signature at the most."""
MAX_JSON = 64 * 1024
STALL_SECONDS, TOTAL_SECONDS = 15.0, 900.0
"""Between two chunks of a body, and for all of it."""


async def chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body as it comes. Raises Oversized, FormatError for a broken one, UsageError for one that stalls."""
    if (request.length or 0) > most:
        raise _oversized(most)
    size, until = 0, 0.0
    while not request.body.empty:
        if not request.body.ready:
            until = until or asyncio.get_running_loop().time() + TOTAL_SECONDS
            await _more(request, until)
        chunk = request.body.take()
        size += len(chunk)
        if size > most:
            raise _oversized(most)
        if chunk:
            yield chunk


def at_once(request: Request, most: int) -> bytes | None:
    """The body where all of it is here already, as small ones are; None where there is waiting. Raises as chunks."""
    if not request.body.complete:
        return None
    data = request.body.take()
    if len(data) > most:
        raise _oversized(most)
    return data


async def _more(request: Request, until: float) -> None:
    try:
        async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + STALL_SECONDS)):
            await request.body.wait()
    except TimeoutError as error:
        raise UsageError("the body did not come in time", code="usage.timeout") from error


def _oversized(most: int) -> Oversized:
    return Oversized(
        f"the body has more than {most} bytes", record="body", hint="docs/api.md says how much each endpoint takes"
    )


async def payload(request: Request) -> Payload:
    """SHA-512 and size of the body, in constant memory."""
    if (data := at_once(request, MAX_PAYLOAD)) is not None:
        return Payload.of(data)
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
    try:
        pairs = request.query
    except ValueError as error:
        raise UsageError("query: not of the form name=value&name=value, or too long") from error
    found: dict[str, str] = {}
    for name, value in pairs:
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
