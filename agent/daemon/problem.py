"""Errors on the wire: one form for HTTP (RFC 9457) and for our own frames, and the way back to an exception."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from agent.core import errors
from agent.core.errors import FirmwareError, ServerError, TeeAgentError

MEDIA_TYPE = "application/problem+json"
STATUS = {
    "usage": 400,
    "usage.path": 404,
    "usage.key": 404,
    "usage.key-use": 409,
    "usage.attachments": 404,
    "usage.secret": 404,
    "usage.method": 405,
    "usage.accept": 406,
    "usage.timeout": 408,
    "format": 400,
    "format.oversized": 413,
    "denied": 403,
    "conflict": 409,
    "config.sealing": 409,
    "verify.sealed": 400,
    "secret": 502,
    "protocol": 502,
    "server": 503,
    "server.budget": 429,
    "platform": 503,
    "firmware": 503,
    "transport": 503,
    "transport.deadline": 504,
}
"""HTTP status by code; the longest prefix at a dot counts, 500 where there is none."""

_MAX_TEXT = 2000


def _longest(code: str, table: Mapping[str, Any]) -> str:
    while code not in table and "." in code:
        code = code.rpartition(".")[0]
    return code


def status_of(error: TeeAgentError) -> int:
    """The HTTP status of an error."""
    return STATUS.get(_longest(error.code, STATUS), 500)


def document(error: TeeAgentError) -> dict[str, Any]:
    """The error for our own frames."""
    found: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
    if isinstance(error, ServerError) and error.retry_after:
        found["retry_after"] = round(error.retry_after)
    if isinstance(error, FirmwareError):
        found |= {"errno": error.errno, "status": error.status}
    return found


def problem(error: TeeAgentError) -> dict[str, Any]:
    """The body of an HTTP answer: ``type`` is about:blank, so ``title`` is the status's own phrase."""
    status = status_of(error)
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": error.message, "code": error.code}
    return body | {"hint": error.hint} if error.hint else body


def retry_after(error: TeeAgentError) -> int:
    """Seconds for a Retry-After header, 0 for none."""
    if isinstance(error, ServerError) and error.retry_after:
        return max(1, round(error.retry_after))
    return 1 if error.retry else 0


def _classes(root: type[TeeAgentError]) -> dict[str, type[TeeAgentError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found


_BY_CODE = _classes(errors.TeeAgentError)


def exception(said: Mapping[str, Any], retry_after_seconds: float = 0.0) -> TeeAgentError:
    """The error that ``said`` (code, message or detail, hint) names, of the class that its code belongs to."""
    code = _text(said.get("code")) or "error"
    message = _text(said.get("message")) or _text(said.get("detail")) or "no reason given"
    hint = _text(said.get("hint"))
    found = _BY_CODE.get(_longest(code, _BY_CODE), TeeAgentError)
    if issubclass(found, ServerError):
        return found(message, hint=hint, code=code, retry_after=retry_after_seconds or _number(said.get("retry_after")))
    if issubclass(found, FirmwareError):
        numbers = {name: int(_number(said.get(name))) for name in ("errno", "status")}
        return found(message, hint=hint, code=code, **numbers)
    return found(message, hint=hint, code=code)


def _text(value: Any) -> str:
    return value[:_MAX_TEXT] if isinstance(value, str) else ""


def _number(value: Any) -> float:
    """What can't be a figure of ours (no number, negative, infinite, beyond 64 bits) counts as none."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 64
    return float(value) if good else 0.0
