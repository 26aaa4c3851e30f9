"""The access policy at the real daemon: rules that change or break, at a reload, at start, under open connections."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.access import put, rule
from tests.support.auditlogs import told
from tests.support.daemon import (
    GROUP,
    MEMBER,
    STRANGER,
    Daemon,
    as_user,
    await_ready,
    open_folder,
    running_daemon,
    start,
    write_config,
)
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
SIGN = ["-d", "payload", "http://agent/v1/sign"]


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture
def own(simulator: Simulator) -> Iterator[Daemon]:
    """A daemon whose policy the test may change."""
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        yield running


def reloaded(daemon: Daemon, said: str) -> None:
    """SIGHUP to the supervisor; back when the journal has ``said`` once more than before."""
    before = daemon.log.count(said)
    with (daemon.folder / "daemon.log").open() as log:
        log.seek(0, os.SEEK_END)
        daemon.process.send_signal(signal.SIGHUP)
        text_since = ""
        while said not in text_since:
            # Any answered request gives the signer a turn of its loop; the test's own time limit ends a vain wait.
            daemon.status()
            text_since += log.read()
    assert daemon.log.count(said) == before + 1


MEMBER_SIGNS = rule("members", who={"user": str(MEMBER)})
STRANGER_SIGNS = rule("strangers", who={"user": str(STRANGER)})


def test_reload_and_a_broken_policy(own: Daemon) -> None:
    def may(user: int) -> bool:
        return own.curl(*SIGN, user=as_user(user))[0] == 200

    # No folder: [daemon] allow_groups.
    assert own.curl(*SIGN, user=as_user(MEMBER, GROUP))[0] == 200
    assert not may(MEMBER)
    put(own.folder, MEMBER_SIGNS)
    assert not may(MEMBER), "nothing happens without a reload"
    reloaded(own, "access policy: 1 rules in force")
    assert may(MEMBER)
    assert not may(STRANGER)
    # Broken: the old rules stay, and that is said.
    put(own.folder, STRANGER_SIGNS, more='\nkeys = "nonsense"\n')
    reloaded(own, "access policy: the old rules stay in force: ")
    assert may(MEMBER)
    assert not may(STRANGER)
    (note,) = own.status()["notes"]
    assert note.startswith("access policy: the old rules stay in force: ")
    assert "10.toml: rule strangers.keys: must be NAMESPACE/NAME" in note
    # Unsafe: likewise.
    put(own.folder, STRANGER_SIGNS)
    (own.folder / "policy.d" / "10.toml").chmod(0o666)
    reloaded(own, "access policy: the old rules stay in force: ")
    assert "others than root may change it" in own.status()["notes"][0]
    assert not may(STRANGER)
    # Good again: for the next request, on connections that are open too.
    (own.folder / "policy.d" / "10.toml").chmod(0o644)
    reloaded(own, "access policy: 1 rules in force")
    assert own.status()["notes"] == []
    assert may(STRANGER)
    assert not may(MEMBER)
    assert own.terminate() == 0
    kept = [(kind, fields.get("code")) for kind, fields in told(own.folder / "audit") if kind.startswith("policy.")]
    assert kept == [
        ("policy.loaded", None),
        ("policy.kept", "config.value"),
        ("policy.kept", "config.unsafe"),
        ("policy.loaded", None),
    ]


WAITS = """
import http.client, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(60)
sock.connect(sys.argv[1])
for _ in sys.stdin:
    sock.sendall(b"POST /v1/sign HTTP/1.1\\r\\nHost: agent\\r\\nContent-Length: 1\\r\\n\\r\\nx")
    answer = http.client.HTTPResponse(sock, method="POST")
    answer.begin()
    answer.read()
    print(answer.status, flush=True)
"""


def test_what_is_taken_away_is_gone_for_open_connections_too(own: Daemon) -> None:
    put(own.folder, MEMBER_SIGNS)
    reloaded(own, "access policy: 1 rules in force")
    argv = [*as_user(MEMBER), sys.executable, "-I", "-c", WAITS, str(own.socket)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def asked() -> str:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            return client.stdout.readline().strip()

        assert [asked() for _ in range(3)] == ["200"] * 3
        put(own.folder, STRANGER_SIGNS)
        reloaded(own, "access policy: 1 rules in force")
        assert asked() == "403"
        client.stdin.close()


def test_a_signal_to_the_signer_alone_is_enough(own: Daemon) -> None:
    """As ExecReload of its unit does it."""
    put(own.folder, MEMBER_SIGNS)
    os.kill(own.role("signer"), signal.SIGHUP)
    while own.log.count("access policy: 1 rules in force") == 0:
        own.status()
    assert own.curl(*SIGN, user=as_user(MEMBER))[0] == 200


@pytest.mark.parametrize(
    ("content", "mode"), [('[[rule]]\nname = "x"\n', 0o644), ("", 0o666)], ids=["broken", "unsafe"]
)
def test_a_broken_policy_at_start_is_exit_78(simulator: Simulator, content: str, mode: int) -> None:
    with open_folder() as folder:
        put(folder, more=content)
        (folder / "policy.d" / "10.toml").chmod(mode)
        process, ear = start(folder, "daemon", "--config", str(write_config(folder, simulator)))
        with ear, pytest.raises(AssertionError, match="exit 78"):
            await_ready(ear, process, folder)
        log = (folder / "daemon.log").read_text()
        assert f"{folder}/policy.d/10.toml: " in log
