"""Grammar, order and effect of scripted faults."""

from __future__ import annotations

import errno
import threading

import pytest

from agent.core.errors import UsageError
from sim.control import answer
from sim.faults import ALWAYS, ERRNOS, Faults, FaultyProvider, parse
from sim.kernel import Made

DATA = bytes(64)


class Plain:
    """Hardware that always works."""

    name = "sev_guest"
    privlevel_floor = 1
    has_auxblob = True

    def report(self, report_data: bytes, privlevel: int, *, debug: bool, tcb_steps: int = 0) -> Made:
        return Made(b"debug" if debug else b"new" * tcb_steps or b"plain" * 40, b"certs")


class Naps:
    """Records the sleeps asked for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def provider(*specs: str, naps: Naps | None = None) -> FaultyProvider:
    return FaultyProvider(Plain(), Faults(tuple(map(parse, specs)), naps or Naps()))


@pytest.mark.parametrize(
    ("spec", "name", "count", "value"),
    [
        ("ebusy", "ebusy", 1, 0),
        ("eintr:3", "eintr", 3, 0),
        ("eio:*", "eio", ALWAYS, 0),
        ("no-certs", "no-certs", ALWAYS, 0),
        ("debug:1", "debug", 1, 0),
        ("short-read", "short-read", 1, 100),
        ("short-read:2:7", "short-read", 2, 7),
        ("throttle", "throttle", 10, 10),
        ("throttle:3:0.5", "throttle", 3, 0.5),
        ("rate", "rate", 1, 1),
        ("rate:5:2", "rate", 5, 2),
        ("tcb", "tcb", ALWAYS, 1),
        ("tcb:1:3", "tcb", 1, 3),
        ("generation-race", "generation-race", 1, 0),
    ],
)
def test_grammar(spec: str, name: str, count: int, value: float) -> None:
    fault = parse(spec)
    assert (fault.name, fault.count, fault.value) == (name, count, value)
    assert parse(fault.text()) == fault


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "nonsense",
        "ebusy:0",
        "ebusy:-1",
        "ebusy:x",
        "ebusy:1:2",
        "throttle:*",
        "throttle:1:-1",
        "rate:*",
        "debug:1:1",
    ],
)
def test_grammar_refuses(spec: str) -> None:
    with pytest.raises(UsageError):
        parse(spec)


@pytest.mark.parametrize("name", ERRNOS)
def test_errnos_come_as_often_as_asked(name: str) -> None:
    driver = provider(f"{name}:2")
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            driver.report(DATA, 1)
        assert caught.value.errno == ERRNOS[name]
    assert driver.report(DATA, 1).auxblob == b"certs"


def test_faults_stand_in_line() -> None:
    driver = provider("eintr", "ebusy")
    seen = []
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            driver.report(DATA, 1)
        seen.append(caught.value.errno)
    assert seen == [errno.EINTR, errno.EBUSY]


@pytest.mark.parametrize(("data", "level"), [(bytes(63), 1), (b"", 1), (DATA, 0)])
def test_the_drivers_own_refusals(data: bytes, level: int) -> None:
    with pytest.raises(OSError) as caught:
        provider().report(data, level)
    assert caught.value.errno == errno.EINVAL


def test_short_read_once() -> None:
    driver = provider("short-read:1:7")
    assert [len(driver.report(DATA, 1).outblob) for _ in range(2)] == [7, 200]


def test_no_certs_and_debug_until_cleared() -> None:
    faults = Faults((parse("no-certs"), parse("debug")))
    driver = FaultyProvider(Plain(), faults)
    assert [driver.report(DATA, 1) for _ in range(3)] == [Made(b"debug", b"")] * 3
    faults.clear()
    assert driver.report(DATA, 1) == Made(b"plain" * 40, b"certs")


def test_throttle_stalls_after_each_allowance() -> None:
    naps = Naps()
    driver = provider("throttle:10:10", naps=naps)
    stalls = []
    for _ in range(25):
        driver.report(DATA, 1)
        stalls.append(len(naps.seconds))
    assert stalls == [0] * 10 + [1] * 10 + [2] * 5
    assert naps.seconds == [10, 10]


def test_a_rate_gives_reports_evenly_whenever_they_are_asked_for() -> None:
    at, given = [100.0], []

    def sleep(seconds: float) -> None:
        at[0] += seconds

    driver = FaultyProvider(Plain(), Faults((parse("rate:2:1"),), sleep, lambda: at[0]))
    for later in (0, 0, 0.1, 0.4, 3, 0):
        at[0] += later
        driver.report(DATA, 1)
        given.append(round(at[0] - 100, 3))
    assert given == [0, 0.5, 1.0, 1.5, 4.5, 5.0]


def test_firmware_is_updated_until_cleared() -> None:
    faults = Faults((parse("tcb:*:2"),))
    driver = FaultyProvider(Plain(), faults)
    assert driver.report(DATA, 1).outblob == b"newnew"
    faults.clear()
    assert driver.report(DATA, 1).outblob == b"plain" * 40


def test_refused_requests_do_not_use_up_the_allowance() -> None:
    naps = Naps()
    driver = provider("throttle:1:5", "ebusy:3", naps=naps)
    for _ in range(3):
        with pytest.raises(OSError):
            driver.report(DATA, 1)
    driver.report(DATA, 1)
    assert naps.seconds == []


def test_clear_ends_a_stall() -> None:
    faults = Faults((parse("throttle:1:1000000"),))
    driver = FaultyProvider(Plain(), faults)
    driver.report(DATA, 1)
    finished = []

    stalled = threading.Thread(target=lambda: finished.append(driver.report(DATA, 1)))
    stalled.start()
    while stalled.is_alive():
        faults.clear()
        stalled.join(0.01)
    assert finished == [Made(b"plain" * 40, b"certs")]


def test_control_lines() -> None:
    faults = Faults()
    assert answer(faults, "fault ebusy:2\n") == "ok"
    assert answer(faults, "fault throttle:3:0.5") == "ok"
    assert answer(faults, "faults") == "ok ebusy:2 throttle:3:0.5"
    assert answer(faults, "fault nonsense").startswith("error unknown fault")
    assert answer(faults, "stop").startswith("error unknown command")
    assert answer(faults, "clear") == "ok"
    assert answer(faults, "faults") == "ok"
