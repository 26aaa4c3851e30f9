"""The largest logs that are taken, made to hurt: memory stays below 64 MiB, words and verdict included."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from agent.core.errors import FormatError
from agent.verify.eventlog import judge, log_json
from tdx import ccel, eventlog
from tdx import event as ev
from tdx.event import Event
from tdx.eventjson import MAX_JSON
from tests.unit.tdx.logs import variable

ROOM = ccel.MAX_AREA - 400
LIMIT = 64 << 20


def only(kind: int, data: bytes) -> bytes:
    return ccel.build([Event(0, 0, kind, bytes(48), data)])


def hostile() -> Iterator[tuple[str, bytes]]:
    yield "events", ccel.build([Event(0, 0, ev.ACTION, bytes(48), b"")] * (ccel.MAX_EVENTS - 1))
    yield "list", only(ev.VARIABLE_BOOT, variable("BootOrder", b"\1\0" * (ROOM // 2)))
    yield "text", only(ev.IPL, b"a\0" * (ROOM // 2))
    yield "option", only(ev.VARIABLE_BOOT, variable("Boot0001", bytes(6) + b"a\0" * (ROOM // 2 - 30)))
    nodes = (b"\4\4\xfc\xff" + b"a\0" * 32764) * 63
    yield "path", only(ev.BOOT_APPLICATION, bytes(24) + struct.pack("<Q", len(nodes)) + nodes)
    yield "name", only(ev.VARIABLE_AUTHORITY, variable("a" * (ROOM // 2 - 40), b""))
    yield "objects", b"[" + b"{}," * (MAX_JSON // 3 - 2) + b"{}]"
    yield "lists", b"[" + b"[]," * (MAX_JSON // 3 - 2) + b"[]]"
    yield "nested", b"[" * MAX_JSON
    row = {"imr": 0, "event_type": ev.IPL, "digest": "ab" * 48, "event_payload": "61" * 65536}
    yield "payloads", json.dumps([row] * 7).encode()


@pytest.mark.parametrize(("what", "data"), [pytest.param(*case, id=case[0]) for case in hostile()])
def test_memory_is_bounded(what: str, data: bytes) -> None:
    tracemalloc.start()
    try:
        log = eventlog.parse(data)
        log_json(log)
        judge(data, eventlog.replay(log.events))
    except FormatError:
        assert what in ("objects", "lists", "nested")
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < LIMIT
