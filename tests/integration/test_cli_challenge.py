"""tee-agent challenge against the real agent: what it writes verifies over the nonce, and what can't be asked says why."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import CLI, ROOT, STRANGER, Daemon, open_folder, running_daemon
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
NONCE = os.urandom(32)


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example") as running,
    ):
        yield running


def challenge(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[bytes]:
    argv = [*CLI, "challenge", "--socket", str(daemon.socket), *words]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL)


def test_the_answer_verifies_over_nonce_payload_and_claims(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"release")
    (tmp_path / "claims").write_text('{"job": 4711}')
    words = ("--payload", str(tmp_path / "payload"), "--claims", str(tmp_path / "claims"), "--context", "c")
    done = challenge(daemon, NONCE.hex(), *words, "--audience", "a", "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    verdict = daemon.verify((tmp_path / "out").read_bytes(), b"release", nonce=NONCE, context="c", audience="a")
    fresh = verdict.bundle.fresh
    assert fresh
    assert (fresh.claims_unverified, fresh.caller["uid"]) == ({"job": 4711}, 0)


def test_without_options_it_goes_to_standard_output(daemon: Daemon) -> None:
    daemon.verify(challenge(daemon, NONCE.hex()).stdout, b"", nonce=NONCE)


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("zz",), 64, b"[usage]"),
        (("00" * 15,), 64, b"[usage]"),
        (("00" * 65,), 64, b"[usage]"),
        (("00" * 16, "--payload", "/nonexistent"), 64, b"[usage.input]"),
        (("00" * 16, "--claims", "/etc/hostname"), 65, b"[format"),
        (("00" * 16, "--context", "c" * 300), 65, b"[format]"),
        (("00" * 16, "-o", "/nonexistent/out"), 64, b"[usage.output]"),
    ],
    ids=["no hex", "short", "long", "no payload", "no claims", "context", "no folder"],
)
def test_what_cannot_be_asked(daemon: Daemon, words: tuple[str, ...], status: int, code: bytes) -> None:
    done = challenge(daemon, *words)
    assert done.returncode == status, done.stderr
    assert code in done.stderr
    assert done.stdout == b""


def test_a_stranger_is_refused(daemon: Daemon) -> None:
    # Imported first: the source may lie where only root reads.
    code = "import os, sys; from agent import cli; from agent.commands import challenge; os.setgroups([]); "
    code += f"os.setresgid(*[{STRANGER}] * 3); os.setresuid(*[{STRANGER}] * 3); sys.exit(cli.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", code, "challenge", "--socket", str(daemon.socket), NONCE.hex()]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 77, done.stderr
    assert b"[denied]" in done.stderr


def test_no_agent(tmp_path: Path) -> None:
    argv = [*CLI, "challenge", "--socket", str(tmp_path / "none"), NONCE.hex()]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 75
    assert b"systemctl status" in done.stderr
