"""Compact bundles as people get them: the command line, the one-file client, curl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import cli
from agent.core import attachdoc, canonical, compact, keydoc
from agent.tee_agent_client import Agent
from tests.support.compact_daemon import ALL, PAYLOAD, daemon_of_all_uses, joined
from tests.support.daemon import Daemon
from tests.support.keys import document

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with daemon_of_all_uses(pki_state) as running:
        yield running


def run(daemon: Daemon, *words: str) -> int:
    return cli.main([words[0], "--config", str(daemon.config), *words[1:]])


def trusting(daemon: Daemon) -> list[str]:
    return ["--any-workload", "--trust-root", str(daemon.simulator.export / "root.pem")]


def test_sign_compact_and_verify(daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, short, attached = tmp_path / "report", tmp_path / "report.compact", tmp_path / "attachments"
    file.write_bytes(PAYLOAD)
    out = ["-o", str(short), "--attachments-to", str(attached)]
    assert run(daemon, "sign", str(file), "--compact", "--context", "c", *out) == 0
    asked = [str(short), "--payload", str(file), "--context", "c", *trusting(daemon)]
    key = tmp_path / "document"
    key.write_bytes(keydoc.build(attachdoc.decode(attached.read_bytes())))
    whole = tmp_path / "whole"
    whole.write_bytes(compact.join(compact.decode(short.read_bytes()), keydoc.decode(key.read_bytes())).encode())
    for source in (attached, key, whole):
        assert cli.main(["verify", *asked, "--attachments", str(source)]) == 0
    assert cli.main(["verify", *asked]) == 64
    assert "--attachments FILE is needed" in capsys.readouterr().err
    assert cli.main(["verify", str(whole), *asked[1:], "--attachments", str(attached)]) == 64
    other = tmp_path / "other"
    other.write_bytes(document(daemon, "one-bundle"))
    assert cli.main(["verify", *asked, "--attachments", str(other)]) == 65
    assert "the compact bundle names" in capsys.readouterr().err
    assert cli.main(["verify", *asked, "--attachments", str(other), "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "verify.binding.attachments"


def test_sign_many_into_a_folder(daemon: Daemon, tmp_path: Path) -> None:
    names = [f"file-{number}" for number in range(5)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    folder = tmp_path / "signatures"
    folder.mkdir()
    files = [str(tmp_path / name) for name in names]
    assert run(daemon, "sign", *files, "--into", str(folder), "--context", "release") == 0
    (attached,) = folder.glob("*.attachments")
    assert {path.name for path in folder.glob("*.compact")} == {f"{name}.compact" for name in names}
    for name, file in zip(names, files, strict=True):
        words = [str(folder / f"{name}.compact"), "--attachments", str(attached), "--payload", file]
        assert cli.main(["verify", *words, "--context", "release", *trusting(daemon)]) == 0
    assert run(daemon, "sign", *files, "--into", str(folder), "--key", "one-bundle") == 0
    assert len(list(folder.glob("*.attachments"))) == 2
    assert run(daemon, "sign", *files, "--into", str(folder), "--key", "one-jws") == 64, "of another use"


@pytest.mark.parametrize(
    "words",
    [
        ("a", "b"),
        ("a", "a", "--into", "."),
        ("-", "--into", "."),
        ("a", "--into", ".", "--fresh"),
        ("a", "--into", ".", "--attachments-to", "x", "--compact"),
        ("a", "--attachments-to", "x"),
        ("a", "--compact", "--key", "one-jws", "--format", "jws"),
        ("--compact",),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(daemon: Daemon, words: tuple[str, ...]) -> None:
    assert run(daemon, "sign", *words) == 64


def test_the_applications_client(daemon: Daemon) -> None:
    with Agent(daemon.socket) as agent:
        short = agent.sign(PAYLOAD, compact=True, context="c")
        attached = agent.attachments(json.loads(short)["attachments"])
        daemon.verify(compact.join(compact.decode(short), attachdoc.decode(attached)).encode(), PAYLOAD, context="c")
        answer = agent.sign_batch(ALL, key="one-bundle", context="c")
        for payload, one in zip(ALL, answer["signatures"], strict=True):
            daemon.verify(joined(daemon, canonical.encode(one)), payload, context="c")


def test_curl_gets_both_halves(daemon: Daemon, tmp_path: Path) -> None:
    """As docs/bundle.md tells it: two requests with curl, put together with jq, are the bundle."""
    (tmp_path / "payload").write_bytes(PAYLOAD)
    agent = ["curl", "-sS", "--fail", "--unix-socket", str(daemon.socket)]
    accept = ["-H", f"Accept: {compact.MEDIA_TYPE}", "--data-binary", f"@{tmp_path / 'payload'}"]
    short = subprocess.run(
        [*agent, *accept, "http://agent/v1/sign"], check=True, capture_output=True, timeout=60
    ).stdout
    url = f"http://agent/v1/attachments/{json.loads(short)['attachments']}"
    attached = subprocess.run([*agent, url], check=True, capture_output=True, timeout=60).stdout
    members = {**json.loads(attached), **json.loads(short), "type": "tee-agent/bundle/v1"}
    del members["attachments"]
    daemon.verify(canonical.encode(members), PAYLOAD)
