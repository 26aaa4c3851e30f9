"""kill -9 at every step of bind and unbind: the image keeps its passphrase, and running it again completes it.

Three kinds of end: our process dies before or after a cryptsetup call; it dies while cryptsetup goes on without it;
cryptsetup itself dies at its n-th write to the image.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.deadline import Deadline
from agent.disk import bind as binding
from agent.disk import unbind as unbinding
from agent.disk import unlock as unlocking
from tests.support import luks
from tests.support.luks import PASSPHRASE, asking, fetching, metadata, opens, volume

pytestmark = luks.needs_cryptsetup
ROOT = Path(__file__).resolve().parents[2]
BIND_CALLS = 6
"""cryptsetup calls of a bind: try the passphrase, pending token, try again, add the slot, try it, final token."""
UNBIND_CALLS = 3
"""Of an unbind: try the other passphrase, wipe the slot, remove the token."""

# The product as it is, but for its door to subprocesses: call number K ends this process.
LAUNCHER = """
import os, signal, subprocess, sys
from agent.core.model import Secret
from agent.deadline import Deadline
from agent.disk import bind, cryptsetup, unbind
from tests.support.luks import asking, fetching, volume

action, image, phase, last = sys.argv[1:3] + [sys.argv[3], int(sys.argv[4])]
real, calls = cryptsetup.run, 0


def orphan(argv, *, stdin, pass_fds, **_):
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=-3, stderr=-3, pass_fds=pass_fds, start_new_session=True)
    child.stdin.write(bytes(stdin.reveal()) if isinstance(stdin, Secret) else stdin or b"")
    child.stdin.close()


def counted(argv, **options):
    global calls
    calls += 1
    if calls == last and phase == "orphan":
        orphan(argv, **options)
    if calls == last and phase != "after":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(argv, **options)
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return done


cryptsetup.run = counted
options = {"ask": asking(), "fetch": fetching(), "deadline": Deadline(60, action)}
if action == "bind":
    bind.bind(volume(image), unmeasured_boot=True, **options)
else:
    unbind.unbind(volume(image), **options)
"""


@pytest.fixture(scope="session")
def bound_template(template: Path) -> Path:
    image = template.with_name("bound.img")
    shutil.copy(template, image)
    bind(image)
    return image


@pytest.fixture
def bound_image(bound_template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(bound_template, tmp_path / "data.img"))


def bind(image: Path) -> binding.Bound:
    return binding.bind(
        volume(image), ask=asking(), fetch=fetching(), deadline=Deadline(60, "test"), unmeasured_boot=True
    )


def unbind(image: Path) -> None:
    unbinding.unbind(volume(image), ask=asking(), fetch=fetching(), deadline=Deadline(60, "test"))


def launch(action: str, image: Path, phase: str, call: int, *wrapper: str) -> subprocess.CompletedProcess[bytes]:
    argv = [*wrapper, sys.executable, "-c", LAUNCHER, action, str(image), phase, str(call)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)


def completes_binding(image: Path) -> None:
    """The passphrase was never lost; a second bind ends in one slot and one token of ours, both good."""
    assert opens(image)
    bind(image)
    assert opens(image)
    assert unlocking.test(volume(image), fetch=fetching(), deadline=Deadline(60, "test")).slot == 1
    written = metadata(image)
    assert sorted(written["keyslots"]) == ["0", "1"]
    assert [token["state"] for token in written["tokens"].values()] == ["bound"]


def completes_unbinding(image: Path) -> None:
    assert opens(image)
    if metadata(image)["tokens"]:
        unbind(image)
    assert opens(image)
    written = metadata(image)
    assert sorted(written["keyslots"]) == ["0"]
    assert written["tokens"] == {}


@pytest.mark.parametrize("phase", ["before", "after", "orphan"])
@pytest.mark.parametrize("call", range(1, BIND_CALLS + 1))
def test_bind_killed(image: Path, call: int, phase: str) -> None:
    killed = launch("bind", image, phase, call)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    completes_binding(image)


@pytest.mark.parametrize("phase", ["before", "after", "orphan"])
@pytest.mark.parametrize("call", range(1, UNBIND_CALLS + 1))
def test_unbind_killed(bound_image: Path, call: int, phase: str) -> None:
    killed = launch("unbind", bound_image, phase, call)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    completes_unbinding(bound_image)


def test_there_are_no_further_steps(image: Path) -> None:
    assert launch("bind", image, "before", BIND_CALLS + 1).returncode == 0
    assert launch("unbind", image, "before", UNBIND_CALLS + 1).returncode == 0


def dying_at_write(number: int, image: Path) -> list[str]:
    """strace, so that the first cryptsetup that makes ``number`` writes to the image dies before the last of them."""
    inject = f"inject=write,pwrite64:signal=SIGKILL:when={number}"
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(image), "-e", "trace=write,pwrite64", "-e", inject]


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
# After this many completed calls, the next edit makes this many writes: key material, then both header copies.
BIND_WRITES = [(0, n) for n in range(1, 7)] + [(2, n) for n in range(1, 9)] + [(4, n) for n in range(1, 7)]
UNBIND_WRITES = [(0, n) for n in range(1, 8)] + [(2, n) for n in range(1, 7)]


@needs_strace
@pytest.mark.parametrize(("calls", "write"), BIND_WRITES)
def test_cryptsetup_killed_in_bind(image: Path, calls: int, write: int) -> None:
    if calls:
        launch("bind", image, "after", calls)
    ended = launch("bind", image, "never", 0, *dying_at_write(write, image))
    assert b"killed by signal 9" in ended.stderr
    completes_binding(image)


@needs_strace
@pytest.mark.parametrize(("calls", "write"), UNBIND_WRITES)
def test_cryptsetup_killed_in_unbind(bound_image: Path, calls: int, write: int) -> None:
    if calls:
        launch("unbind", bound_image, "after", calls)
    ended = launch("unbind", bound_image, "never", 0, *dying_at_write(write, bound_image))
    assert b"killed by signal 9" in ended.stderr
    completes_unbinding(bound_image)


def test_the_passphrase_is_the_judge(image: Path) -> None:
    # The judge of all tests above can say no.
    assert opens(image, PASSPHRASE)
    assert not opens(image, b"wrong")
