"""Real ssh clients at the agent's socket: ssh-add, ssh-keygen and git."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import VerificationError
from agent.verify.ssh import verify_ssh
from tests.support import keys, ssh
from tests.support.daemon import Daemon
from tests.support.sshclients import NAMES, PAYLOAD, agent, command, public, said, serving, shared_folder

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with serving(pki_state) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


def test_ssh_add_lists_what_the_caller_may_see(daemon: Daemon, place: Path) -> None:
    lines = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place)).splitlines()
    assert lines == [public(daemon, place, name).read_text().strip() for name in NAMES.values()]
    for line, name in zip(lines, NAMES.values(), strict=True):
        assert line.endswith(f"uid-0/{name}#1 {daemon.request('GET', f'/v1/keys/{name}').json['id']}")
    short = said(ssh.client(agent(daemon), "ssh-add", "-l", cwd=place))
    assert [line.split()[-1] for line in short.splitlines()] == ["(ED25519)", "(ECDSA)", "(ECDSA)"]
    shown = json.loads(command(daemon, "keys", "show", "ed", "--json"))
    assert shown["ssh"] == lines[0]


@pytest.mark.parametrize("words", [["-D"], ["-x"], ["-d", "ed.pub"], ["new"]])
def test_nothing_is_given_to_the_agent_or_taken_away(daemon: Daemon, place: Path, words: list[str]) -> None:
    public(daemon, place, "ed")
    said(ssh.client(agent(daemon), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "new", cwd=place))
    before = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place))
    askpass = shutil.which("true") or ""
    done = ssh.client(agent(daemon), "ssh-add", *words, cwd=place, SSH_ASKPASS=askpass, SSH_ASKPASS_REQUIRE="force")
    assert done.returncode != 0
    assert said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place)) == before


@pytest.mark.parametrize("algorithm", NAMES)
@pytest.mark.parametrize("name", ["sha512", "sha256"])
def test_ssh_keygen_signs_and_the_evidence_verifies(daemon: Daemon, place: Path, algorithm: str, name: str) -> None:
    line = public(daemon, place, NAMES[algorithm])
    options = ["-O", f"hashalg={name}"]
    said(
        ssh.client(agent(daemon), "ssh-keygen", "-Y", "sign", *options, "-n", "file", "-f", line, "message", cwd=place)
    )
    made = (place / "message.sig").read_bytes()
    kept = [f'ci@example namespaces="file" {line.read_text()}']
    (place / "allowed").write_text("".join(kept))
    words = ["-Y", "verify", "-f", "allowed", "-I", "ci@example", "-n", "file", "-s", "message.sig"]
    assert "Good" in said(ssh.client(agent(daemon), "ssh-keygen", *words, cwd=place, given=PAYLOAD))
    assert ssh.client(agent(daemon), "ssh-keygen", *words, cwd=place, given=b"other").returncode != 0
    key, judge = keys.document(daemon, NAMES[algorithm]), keys.judge(daemon)
    verdict = verify_ssh(made, key, judge, payload=[PAYLOAD], context="file")
    assert verdict.said["payload"]["algorithm"] == name.replace("sha", "sha-")
    assert verdict.said["ssh"] == " ".join(line.read_text().split()[:2])
    for payload, context in ((b"other", "file"), (PAYLOAD, "git")):
        with pytest.raises(VerificationError):
            verify_ssh(made, key, judge, payload=[payload], context=context)


@pytest.mark.parametrize("algorithm", NAMES)
def test_ssh_keygen_takes_what_came_over_http(daemon: Daemon, place: Path, algorithm: str) -> None:
    line = public(daemon, place, NAMES[algorithm])
    command(daemon, "sign", "--key", NAMES[algorithm], "--context", "file", place / "message", "-o", place / "made.sig")
    words = ["-Y", "check-novalidate", "-n", "file", "-s", "made.sig"]
    assert "Good" in said(ssh.client(agent(daemon), "ssh-keygen", *words, cwd=place, given=PAYLOAD))
    (place / "allowed").write_text(f"ci@example {line.read_text()}")
    words = ["-Y", "verify", "-f", "allowed", "-I", "ci@example", "-n", "git", "-s", "made.sig"]
    assert ssh.client(agent(daemon), "ssh-keygen", *words, cwd=place, given=PAYLOAD).returncode != 0


def test_the_command_verifies_it(daemon: Daemon, place: Path) -> None:
    command(daemon, "sign", "--key", "p384", "--context", "file", place / "message", "-o", place / "made.sig")
    command(daemon, "keys", "attest", "p384", "-o", place / "p384.key")
    words: list[str | Path] = [place / "made.sig", "--key-document", place / "p384.key", "--payload", place / "message"]
    asked: list[str | Path] = [
        "--any-workload",
        "--trust-root",
        daemon.simulator.export / "root.pem",
        "--context",
        "file",
    ]
    assert "ssh signature: valid" in command(daemon, "verify", *words, *asked)


def repository(daemon: Daemon, place: Path, name: str) -> Mapping[str, Any]:
    """A git repository that signs with the key; what its git is to be run with."""
    line = public(daemon, place, name)
    (place / "allowed").write_text(f'ci@example namespaces="git" {line.read_text()}')
    settings = {
        "user.name": "ci",
        "user.email": "ci@example",
        "gpg.format": "ssh",
        "user.signingkey": str(line),
        "gpg.ssh.allowedSignersFile": str(place / "allowed"),
        "commit.gpgsign": "true",
    }
    said(ssh.client(agent(daemon), "git", "init", "-q", "repo", cwd=place))
    for key, value in settings.items():
        said(ssh.client(agent(daemon), "git", "config", key, value, cwd=place / "repo"))
    return {"cwd": place / "repo", "GIT_CONFIG_NOSYSTEM": "1"}


@pytest.mark.parametrize("name", NAMES.values())
def test_git_signs_commits_and_tags(daemon: Daemon, place: Path, name: str) -> None:
    where = repository(daemon, place, name)
    said(ssh.client(agent(daemon), "git", "commit", "-q", "--allow-empty", "-m", "one", **where))
    done = ssh.client(agent(daemon), "git", "verify-commit", "--raw", "HEAD", **where)
    assert done.returncode == 0
    assert b'Good "git" signature for ci@example' in done.stderr
    said(ssh.client(agent(daemon), "git", "tag", "-s", "v1", "-m", "v1", **where))
    said(ssh.client(agent(daemon), "git", "verify-tag", "v1", **where))
    raw = said(ssh.client(agent(daemon), "git", "cat-file", "commit", "HEAD", **where))
    forged = ssh.client(
        agent(daemon),
        "git",
        "hash-object",
        "-t",
        "commit",
        "-w",
        "--stdin",
        **where,
        given=raw.replace("\none\n", "\ntwo\n").encode(),
    )
    changed = said(forged).strip()
    assert ssh.client(agent(daemon), "git", "verify-commit", changed, **where).returncode != 0
    # The signature of a commit, for who relies on the evidence: the header without it is what was signed.
    head, _, rest = raw.partition("gpgsig ")
    lines, _, message = rest.partition("\n\n")
    armored = "\n".join(line.removeprefix(" ") for line in lines.splitlines()) + "\n"
    payload = f"{head}\n{message}".encode()
    verify_ssh(armored.encode(), keys.document(daemon, name), keys.judge(daemon), payload=[payload], context="git")


def test_rotation_keeps_the_old_key_beside_the_new(daemon: Daemon, place: Path) -> None:
    keys.create(daemon, "turned", "ssh")
    old = public(daemon, place, "turned").rename(place / "old.pub")
    daemon.post(
        "/v1/keys/turned/rotate", json.dumps({"overlap_seconds": 600}).encode(), Content_Type="application/json"
    )
    new = public(daemon, place, "turned")
    lines = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place)).splitlines()
    assert (lines[3], lines[4]) == (new.read_text().strip(), old.read_text().strip())
    assert [line.split()[2] for line in lines[3:]] == ["uid-0/turned#2", "uid-0/turned#1"]
    for line in (old, new):
        (place / "message.sig").unlink(missing_ok=True)
        said(ssh.client(agent(daemon), "ssh-keygen", "-Y", "sign", "-n", "file", "-f", line, "message", cwd=place))
    daemon.request("DELETE", "/v1/keys/turned")
    (place / "message.sig").unlink()
    done = ssh.client(agent(daemon), "ssh-keygen", "-Y", "sign", "-n", "file", "-f", new, "message", cwd=place)
    assert done.returncode != 0
    assert len(said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place)).splitlines()) == 3
