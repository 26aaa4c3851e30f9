"""The examples of docs/clients.md and docs/keys.md, run as they stand there; only the socket's path is the test's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core import attachdoc, compact
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from tests.support.daemon import ROOT, Daemon, open_folder, running_daemon
from tests.support.keys import judge
from tests.support.simulator import running_simulator

pytestmark = pytest.mark.fuse
PAGE = ROOT / "docs/clients.md"
SOCKET = "/run/tee-agent/agent.sock"
KEYS = ROOT / "docs/keys.md"
LINES = re.compile(r"^    ((?:agent|sed|openssl)\b.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, list[tuple[str, str]]]:
    """Code by its heading: language and text, in order."""
    found = {}
    for part in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = part.partition("\n")
        found[title] = BLOCK.findall(text)
    return found


SECTIONS = {title: blocks for title, blocks in sections().items() if blocks}


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with (
        open_folder() as folder,
        running_simulator("snp", folder, pki_state) as simulator,
        running_daemon(simulator, folder, audience="rp.example", keys_each_max=60) as running,
    ):
        yield running


def program(daemon: Daemon, blocks: list[tuple[str, str]]) -> str:
    """The blocks of one language as one program on the test's socket."""
    text = "\n".join(code for _, code in blocks)
    if blocks[0][0] == "python":
        return text.replace(SOCKET, str(daemon.socket)).replace("Agent()", f"Agent({str(daemon.socket)!r})")
    command = f'{sys.executable} -m agent.cli "$@" --config {daemon.config}'
    return re.sub(r"^tee-agent ", "ours ", f"ours() {{ {command}; }}\n" + text, flags=re.MULTILINE).replace(
        SOCKET, str(daemon.socket)
    )


@pytest.mark.parametrize("title", SECTIONS)
def test_examples_work_as_they_stand(daemon: Daemon, title: str, tmp_path: Path) -> None:
    blocks = SECTIONS[title]
    assert len({language for language, _ in blocks}) == 1
    words = [sys.executable, "-"] if blocks[0][0] == "python" else ["sh", "-eu"]
    shutil.copy(ROOT / "agent/tee_agent_client.py", tmp_path)
    done = subprocess.run(
        words,
        input=program(daemon, blocks).encode(),
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    CHECKS[title](daemon, tmp_path)


def test_examples_of_named_keys_work_as_they_stand(daemon: Daemon, tmp_path: Path) -> None:
    """In the order of the page, on a file that is to be signed."""
    order = b'{"order": 4711}'
    (tmp_path / "order.json").write_bytes(order)
    text = "\n".join(LINES.findall(KEYS.read_text())).replace(SOCKET, str(daemon.socket))
    assert text.count("\n") >= 9
    done = subprocess.run(
        ["sh", "-eu"], input=text.encode(), cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), done
    assert b"Signature Verified Successfully" in done.stdout
    assert b'"code"' not in done.stdout
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    verify_jws(files["order.jws"], files["orders.key"], judge(daemon), payload=order, context="orders")
    verify_eat(files["identity.eat"], judge(daemon), nonce=bytes.fromhex("6b1f0d52a7c3e894"), audience="ci.example")


def joined(folder: Path, short: str, attached: str) -> bytes:
    """The whole bundle of a compact one."""
    halves = compact.decode((folder / short).read_bytes()), attachdoc.decode((folder / attached).read_bytes())
    return compact.join(*halves).encode()


def curl(daemon: Daemon, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    daemon.verify(files["release.bundle"], b"release 1.2\n", context="releases")
    daemon.verify(files["answer.bundle"], None, audience="ci.example")
    daemon.verify(joined(folder, "release.compact", "agent.attachments"), b"release 1.2\n")
    verify_jws(files["order.jws"], files["orders.key"], judge(daemon), payload=b'{"order": 4711}', context="orders")


def command_line(daemon: Daemon, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    daemon.verify(files["release.bundle"], files["release.txt"], context="releases")
    verify_cose(files["release.cose"], files["invoices.key"], judge(daemon), payload=files["release.txt"])
    daemon.verify(files["answer.bundle"], None, nonce=bytes.fromhex("6b1f0d52a7c3e8946b1f0d52a7c3e894"))


def python(daemon: Daemon, folder: Path) -> None:
    daemon.verify((folder / "order.bundle").read_bytes(), b"order 4711", context="orders")
    daemon.verify((folder / "image.bundle").read_bytes(), bytes(5_000_000), context="images")
    for number in (4711, 4810):
        made = joined(folder, f"order-{number}.compact", "orders.attachments")
        daemon.verify(made, b"order %d" % number, context="orders")


def nothing_left(_daemon: Daemon, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["tee_agent_client.py"]


CHECKS: dict[str, Callable[[Daemon, Path], None]] = {
    "curl": curl,
    "The command line": command_line,
    "Python, one file of the standard library": python,
    "Python with requests": nothing_left,
}
