"""Where secrets are not: argument lists, environments, cores, output. The real command, watched by strace."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.model import Secret
from agent.disk import device, keys, token
from tests.support import luks
from tests.support.luks import PASSPHRASE, SECRET

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    luks.needs_cryptsetup,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]
# The command as it is, with a service that answers at once.
LAUNCHER = f"""
import sys
from agent import cli
from agent.commands import disk
from agent.core.model import Secret


class Service:
    def fetch_secret(self, policy_id, deadline):
        return Secret({SECRET!r})


disk.session.open_tas = lambda config: Service()
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return luks.make_image(tmp_path / "data.img")


@pytest.fixture
def launcher(tmp_path: Path, image: Path) -> list[str]:
    script = tmp_path / "launcher.py"
    script.write_text(LAUNCHER)
    config = tmp_path / "tee-agent.toml"
    config.write_text(f'[[volume]]\nname = "data"\ndevice = "{image}"\npolicy_ids = ["policy-a"]\n')
    key = tmp_path / "key"
    key.write_bytes(PASSPHRASE)
    return [sys.executable, str(script), "disk", "--config", str(config), "--json"]


def run(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, timeout=120, check=False)


def steps(tmp_path: Path) -> list[list[str]]:
    key = str(tmp_path / "key")
    return [
        ["bind", "data", "--key-file", key, "--unmeasured-boot"],
        ["test", "data"],
        ["unbind", "data", "--key-file", key],
    ]


def derived(image: Path) -> list[bytes]:
    """Everything that must stay inside, for the volume as it is bound now."""
    with device.opened(str(image)) as opened:
        header = opened.header()
    found = token.find(header.metadata)
    assert found is not None
    both = [keys.derive(Secret(SECRET), label, header.uuid, found[1]) for label in ("keyslot", "header-mac")]
    return [SECRET, PASSPHRASE, *(bytes(secret.reveal()) for secret in both)]


def shapes(secret: bytes) -> list[bytes]:
    """How a secret could look in a trace of hexadecimal strings, or in output."""
    texts = [secret, secret.hex().encode(), base64.b64encode(secret)]
    escaped = ["".join(f"\\x{byte:02x}" for byte in text).encode() for text in texts]
    return [*texts, *escaped]


def test_no_secret_in_arguments_environment_or_output(tmp_path: Path, image: Path, launcher: list[str]) -> None:
    said = b""
    inside: list[bytes] = []
    for number, step in enumerate(steps(tmp_path)):
        trace = tmp_path / f"trace{number}"
        strace = ["strace", "-f", "-xx", "-v", "-s", "100000", "-e", "trace=execve,execveat", "-o", str(trace)]
        done = run(*strace, *launcher, *step)
        assert done.returncode == 0, done.stderr
        said += trace.read_bytes() + done.stdout + done.stderr
        inside = inside or derived(image)
    # The trace does show what is passed by argument: this test can fail.
    assert "".join(f"\\x{byte:02x}" for byte in b"luksAddKey").encode() in said
    assert "".join(f"\\x{byte:02x}" for byte in b"LC_ALL=C").encode() in said
    assert [secret for secret in inside for shape in shapes(secret) if shape in said] == []


def test_an_aborted_cryptsetup_leaves_no_core(tmp_path: Path, image: Path, launcher: list[str]) -> None:
    where = tmp_path / "cwd"
    where.mkdir()
    allowed = ["sh", "-c", 'ulimit -c unlimited && exec "$@"', "sh"]
    run(*allowed, "sh", "-c", "kill -ABRT $$", cwd=where)
    cores = list(where.iterdir())
    if not cores:
        pytest.skip("this machine's kernel writes no core files here")
    for core in cores:
        core.unlink()
    inject = ["-e", "trace=write", "-e", "inject=write:signal=SIGABRT:when=1", "-P", str(image)]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", *inject]
    done = run(*allowed, *strace, *launcher, *steps(tmp_path)[0], cwd=where)
    assert "killed by signal 6" in json.loads(done.stdout)["error"]["message"]
    assert list(where.iterdir()) == []


def test_core_limit_reaches_the_child(tmp_path: Path, launcher: list[str]) -> None:
    trace = tmp_path / "trace"
    done = run(
        "strace", "-f", "-o", str(trace), "-e", "trace=prlimit64,setrlimit,execve", *launcher, *steps(tmp_path)[0]
    )
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    limited = next(
        index for index, line in enumerate(lines) if "RLIMIT_CORE" in line and "rlim_cur=0, rlim_max=0" in line
    )
    started = next(index for index, line in enumerate(lines) if "execve(" in line and "cryptsetup" in line)
    assert limited < started
