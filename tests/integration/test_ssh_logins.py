"""Logins to a real sshd with attested keys: with those that the server knows, as long as they are there, and only here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import keys, ssh
from tests.support.access import rule
from tests.support.auditlogs import denials, told
from tests.support.daemon import GROUP, Daemon, as_user
from tests.support.sshclients import NAMES, agent, command, public, ruled, said, serving, shared_folder, signing_key
from tests.support.sshd import Server, server

pytestmark = pytest.mark.fuse
MEMBER, STRANGER = 1, 2
"""daemon and bin: ssh wants users that have a name."""
REFUSED = 255
"""ssh's own exit status."""


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with serving(pki_state) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


def attested(daemon: Daemon, place: Path, name: str) -> str:
    """The key's line for authorized_keys, from a relying party's judgement of its evidence."""
    command(daemon, "keys", "attest", name, "-o", place / f"{name}.key")
    root = daemon.simulator.export / "root.pem"
    asked = ("--use", "ssh", "--any-workload", "--trust-root", root, "--json")
    line = json.loads(command(daemon, "verify", place / f"{name}.key", *asked))["ssh"]
    assert isinstance(line, str)
    return line


def fingerprint(place: Path, line: str) -> str:
    (place / "one.pub").write_text(line)
    return said(ssh.client(place, "ssh-keygen", "-l", "-f", "one.pub", cwd=place)).split()[1]


def refused(found: Server, path: Path, user: list[str] | None = None) -> bool:
    """The server asks for another key, and there is none."""
    before = found.accepted()
    done = found.login(path, "--", "true", user=user)
    assert found.accepted() == before
    return done.returncode == REFUSED and b"Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("name", NAMES.values())
def test_a_login_with_an_attested_key(daemon: Daemon, place: Path, name: str) -> None:
    line = attested(daemon, place, name)
    with server(place, line) as found:
        done = found.login(agent(daemon), "-v", "--", "echo", "hello from there")
        assert done.stdout == b"hello from there\n", done.stderr.decode() + found.log
        assert found.accepted() == [fingerprint(place, line)]
        assert b"publickey-hostbound" in done.stderr or b"bound agent to hostkey" in done.stderr
        found.authorized.write_text("")
        assert refused(found, agent(daemon))


def test_a_key_that_was_destroyed_logs_nobody_in(daemon: Daemon, place: Path) -> None:
    made = keys.create(daemon, "passing", "ssh")
    key, line = signing_key(daemon, "passing"), public(daemon, place, "passing")
    with server(place, attested(daemon, place, "passing")) as found:
        assert found.login(agent(daemon), "-i", str(line), "--", "true", IdentitiesOnly="yes").returncode == 0
        assert daemon.request("DELETE", "/v1/keys/passing").status == 200
        assert refused(found, agent(daemon))
        done = found.login(agent(daemon), "-i", str(line), "--", "true", IdentitiesOnly="yes")
        assert done.returncode == REFUSED
        assert found.accepted() == [fingerprint(place, key.line())]
    assert ssh.ask(agent(daemon), ssh.signing(key.blob, ssh.login(key))) == [b"\5"]
    ends = [kind for kind, fields in told(daemon.folder / "audit") if fields.get("key_id") == made["id"]]
    assert {"key.created", "key.destroyed"} <= set(ends)


def test_somebody_else_s_key_logs_nobody_in(daemon: Daemon, place: Path) -> None:
    """Known at the server, but not this caller's to use; and the caller's own, which the server does not know."""
    member = as_user(MEMBER, GROUP)
    made = json.dumps({"name": "own", "use": "ssh"})
    assert daemon.curl("--json", made, "http://agent/v1/keys", user=member)[0] == 201
    line = attested(daemon, place, "ed")
    with server(place, line) as found:
        assert refused(found, agent(daemon), member)
        own = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place, user=member))
        found.authorized.write_text(own)
        assert found.login(agent(daemon), "--", "true", user=member).returncode == 0
        assert found.accepted() == [fingerprint(place, own)]
        assert refused(found, agent(daemon), as_user(STRANGER, GROUP))


def test_a_rule_for_logins_is_none_for_files(daemon: Daemon, place: Path) -> None:
    rules = (
        rule("make", who={"user": str(MEMBER)}, operations=["keys.create", "keys.list"]),
        rule("login", who={"user": str(MEMBER)}, uses="ssh", keys=f"uid-{MEMBER}/login", contexts="ssh-auth"),
        rule("files", who={"user": str(MEMBER)}, uses="ssh", keys=f"uid-{MEMBER}/files", contexts="file"),
    )
    member, lines = as_user(MEMBER), {}
    with ruled(daemon.simulator, *rules) as strict:
        for name in ("files", "login"):
            made = json.dumps({"name": name, "use": "ssh"})
            assert strict.curl("--json", made, "http://agent/v1/keys", user=member)[0] == 201
        for line in said(ssh.client(agent(strict), "ssh-add", "-L", cwd=place, user=member)).splitlines():
            name = line.split()[2].removeprefix(f"uid-{MEMBER}/").removesuffix("#1")
            lines[name] = line
            (place / f"{name}.pub").write_text(line)
        with server(place, lines["files"]) as found:
            assert refused(found, agent(strict), member)
            found.authorized.write_text(lines["login"])
            assert found.login(agent(strict), "--", "true", user=member).returncode == 0
        sign = ["ssh-keygen", "-Y", "sign", "-n", "file", "-f"]
        assert ssh.client(agent(strict), *sign, "login.pub", "message", cwd=place, user=member).returncode != 0
        said(ssh.client(agent(strict), *sign, "files.pub", "message", cwd=place, user=member))
        denied = denials(strict.folder / "audit", 2)
        assert [(one["key"].partition("/")[2], one["context"]) for one in denied] == [
            ("files", "ssh-auth"),
            ("login", "file"),
        ]


def test_a_forwarded_agent_gets_nothing(daemon: Daemon, place: Path) -> None:
    key = signing_key(daemon, "ed")
    wanted = [ssh.signing(key.blob, ssh.file()), ssh.signing(key.blob, ssh.login(key))]
    asked = "; ".join(f"{sys.executable} -I {place}/ask $SSH_AUTH_SOCK {message.hex()}; echo" for message in wanted)
    (place / "ask").write_text(ssh.ASK)
    before = len(denials(daemon.folder / "audit", 0, "uid-0/ed"))
    with server(place, key.line()) as found:
        done = found.login(agent(daemon), "-A", "--", f"ssh-add -l; {asked}; echo end")
        assert done.stdout == b"The agent has no identities.\n05\n05\nend\n", done.stderr.decode() + found.log
    denied = denials(daemon.folder / "audit", before + len(wanted), "uid-0/ed")[before:]
    assert [(one["key"], one["rule"]) for one in denied] == [("uid-0/ed", "form")] * len(wanted)
    assert all("forwarded agent" in one["reason"] for one in denied)


def test_from_a_server_to_another_by_a_jump_and_not_by_a_forwarded_agent(daemon: Daemon, place: Path) -> None:
    line = attested(daemon, place, "ed")
    (place / "first").mkdir()
    (place / "second").mkdir()
    with server(place / "first", line) as first, server(place / "second", line) as second:
        second.login(agent(daemon), "--", "true")  # and its ssh_config is written
        assert len(second.accepted()) == 1
        onward = f"ssh -F {second.place}/ssh_config -o IdentityAgent=$SSH_AUTH_SOCK server echo arrived"
        done = first.login(agent(daemon), "-A", "--", onward)
        assert (done.returncode, done.stdout) == (REFUSED, b"")
        assert (len(first.accepted()), len(second.accepted())) == (1, 1)
        through = f"ssh -F {first.place}/ssh_config -W %h:%p server"
        done = second.login(agent(daemon), "--", "echo", "arrived", ProxyCommand=through)
        assert done.stdout == b"arrived\n", done.stderr
        assert (len(first.accepted()), len(second.accepted())) == (2, 2)
