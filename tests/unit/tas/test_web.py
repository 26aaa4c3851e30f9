"""What goes wrong inside becomes a clean answer, and the log names it without quoting it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from agent.core import headpost, keydoc
from agent.core.errors import ConfigError, ServerError
from tas.heads import HeadKeeper
from tas.log import Log
from tas.service import Answer, Service
from tas.web import Web, Workers

KEY = "k" * 64


@dataclass
class Failing:
    """A service whose every answer is ``error``."""

    error: Exception

    material = SimpleNamespace(api_key=KEY.encode())

    def nonce(self) -> str:
        raise self.error

    def get_secret(self, body: Mapping[str, Any], request_id: str, client: str) -> Answer:
        raise self.error

    def keep(self, document: bytes, material: object, request_id: str, client: str) -> Answer:
        raise self.error


def ask(error: Exception, method: str, path: str) -> tuple[int, Mapping[str, str], Any, str]:
    sink = io.StringIO()

    async def run() -> tuple[int, Mapping[str, str], Any]:
        with ThreadPoolExecutor(1) as pool:
            service = cast("Service", Failing(error))
            web = Web(
                service, cast("HeadKeeper", service), Workers(pool, pool), Log(sink), per_minute=0, read_seconds=5
            )
            async with TestClient(TestServer(web.application())) as client:
                body = b'{"nonce": "hidden"}' if method == "POST" else None
                kind = keydoc.MEDIA_TYPE if path == headpost.PATH else "application/json"
                headers = {"X-API-KEY": KEY, "Content-Type": kind}
                answer = await client.request(method, path, headers=headers, data=body)
                return answer.status, answer.headers.copy(), await answer.json()

    return (*asyncio.run(run()), sink.getvalue())


ROUTES = [("GET", "/kb/v0/get_nonce"), ("POST", "/kb/v0/get_secret"), ("POST", headpost.PATH)]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_busy_database(method: str, path: str) -> None:
    status, headers, body, log = ask(ServerError("busy", retry_after=7, code="server.database"), method, path)
    assert (status, headers["Retry-After"], set(body)) == (503, "7", {"error"})
    record = json.loads(log)
    assert (record["event"], record["code"], record["request"]) == (
        "unavailable",
        "server.database",
        headers["X-Request-Id"],
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_bug(method: str, path: str) -> None:
    status, headers, body, log = ask(RuntimeError("quotes a secret"), method, path)
    assert (status, body) == (500, {"error": "Internal server error"})
    record = json.loads(log)
    assert (record["event"], record["type"], record["request"]) == ("error", "RuntimeError", headers["X-Request-Id"])
    assert record["where"].startswith("test_web.py:")
    assert "secret" not in log


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_broken_database_is_told_by_its_own_words(method: str, path: str) -> None:
    """Who is woken by it reads what to do, not a line number; what looks like evidence or a key is left out."""
    broken = ConfigError(f"the database: malformed {'ab' * 40}", code="config.database")
    status, _, body, log = ask(broken, method, path)
    assert (status, body) == (500, {"error": "Internal server error"})
    record = json.loads(log)
    assert (record["code"], record["reason"]) == ("config.database", "the database: malformed <hex>")


def test_reader_of_the_log_left() -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    Log(Gone()).event("start")
