"""Real ssh clients at the agent's socket: ssh-add, ssh-keygen, git, and a login to a real sshd."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import VerificationError
from agent.core.keydoc import decode
from agent.core.sshwire import PublicKey
from agent.verify.jws import verify_jws
from agent.verify.ssh import verify_ssh
from tests.support import keys, ssh, tools
from tests.support.access import rule, text
from tests.support.auditlogs import told
from tests.support.daemon import (
    CLI,
    GROUP,
    ROOT,
    Daemon,
    as_user,
    open_folder,
    running_daemon,
)
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
PAYLOAD = b"a release\n"
MEMBER, STRANGER, THIRD = 1, 2, 3
"""daemon, bin and sys: ssh-keygen wants users that have a name, and every Debian has these."""
NAMES = {"Ed25519": "ed", "ECDSA-P256": "p256", "ECDSA-P384": "p384"}
RULES = (
    rule("git", who={"user": str(MEMBER)}, uses="ssh", contexts=["git", "ssh-auth"]),
    rule("own", who={"user": str(MEMBER)}, operations=["keys.create", "keys.list", "keys.rotate"]),
    rule("one", who={"user": str(THIRD)}, operations=["keys.list", "sign"], keys=f"uid-{MEMBER}/deploy"),
)


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder, running_daemon(simulator, folder, ssh_socket=True) as running:
        for algorithm, name in NAMES.items():
            keys.create(running, name, "ssh", algorithm)
        keys.create(running, "notssh", "jws")
        yield running


@pytest.fixture
def place(daemon: Daemon) -> Iterator[Path]:
    """A folder that every user may use, with the payload."""
    with open_folder() as folder:
        folder.chmod(0o777)
        (folder / "message").write_bytes(PAYLOAD)
        yield folder


def agent(daemon: Daemon) -> Path:
    return daemon.runtime / "ssh.sock"


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


def command(daemon: Daemon, *words: str | Path) -> str:
    """A command of tee-agent that must succeed: what it prints."""
    argv = [*CLI, *map(str, words), "--config", str(daemon.config)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, timeout=60, text=True).stdout


def public(daemon: Daemon, place: Path, name: str) -> Path:
    command(daemon, "keys", "ssh", name, "-o", place / f"{name}.pub")
    return place / f"{name}.pub"


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


def test_a_key_for_something_else_is_none_for_ssh(daemon: Daemon) -> None:
    spki = keys.document(daemon, "notssh")
    other = PublicKey.of(decode(spki).spki)
    assert ssh.ask(agent(daemon), ssh.signing(other.blob, ssh.file()), ssh.signing(other.blob, ssh.login(other))) == [
        b"\5",
        b"\5",
    ]


def signing_key(daemon: Daemon, name: str, query: str = "") -> PublicKey:
    return PublicKey.of(decode(keys.document(daemon, name, query)).spki)


def test_no_other_protocol_s_bytes_are_signed(daemon: Daemon, place: Path) -> None:
    """Nor those of our own other formats; and what ssh signed passes for none of them."""
    key = signing_key(daemon, "ed")
    before = len([kind for kind, _ in told(daemon.folder / "audit") if kind == "denied"])
    others = [b"", bytes(64), b"eyJhbGciOiJFZERTQSJ9.e30", b"tee-agent/v1\0", b"\x84jSignature1@@@", ssh.login(key)[4:]]
    assert ssh.ask(agent(daemon), *(ssh.signing(key.blob, data) for data in others)) == [b"\5"] * len(others)
    assert ssh.client(agent(daemon), "ssh-add", "-T", public(daemon, place, "ed"), cwd=place).returncode != 0
    denied = [fields for kind, fields in told(daemon.folder / "audit") if kind == "denied"][before:]
    assert len(denied) == len(others) + 1
    assert {(one["operation"], one["key"], one["use"], one["rule"]) for one in denied} == {
        ("sign", "uid-0/ed", "ssh", "form")
    }
    signed = keys.sign(daemon, "ed", "ssh", PAYLOAD).body
    for verify in (lambda data: verify_jws(data, keys.document(daemon, "ed"), keys.judge(daemon)), daemon.verify):
        with pytest.raises(Exception, match=r"JWS|JSON|bundle"):
            verify(signed, *([None] if verify == daemon.verify else []))


def test_signatures_are_counted_for_their_caller(daemon: Daemon, place: Path) -> None:
    # A key of its own: of another test's, signatures may be counted but not yet written.
    key = keys.create(daemon, "counted", "ssh")["id"]

    def signed() -> int:
        log = told(daemon.folder / "audit")
        return sum(fields["count"] for kind, fields in log if kind == "key.signed" and fields["key_id"] == key)

    line = public(daemon, place, "counted")
    for _ in range(3):
        (place / "message.sig").unlink(missing_ok=True)
        said(
            ssh.client(agent(daemon), "ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", line, "message", cwd=place)
        )
    while signed() != 3:  # written within two seconds; ended by the test's own timeout
        os.sched_yield()
    daemon.request("DELETE", "/v1/keys/counted")


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


def test_a_member_of_the_group_and_a_stranger(daemon: Daemon, place: Path) -> None:
    """Without rules: everybody's own keys, and nobody else's."""
    made = json.dumps({"name": "mine", "use": "ssh"})
    member = as_user(MEMBER, GROUP)
    status, _ = daemon.curl("--json", made, "http://agent/v1/keys", user=member)
    assert status == 201
    listed = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place, user=member)).splitlines()
    assert [line.split()[2] for line in listed] == [f"uid-{MEMBER}/mine#1"]
    (place / "mine.pub").write_text(listed[0])
    sign = ["ssh-keygen", "-Y", "sign", "-n", "file", "-f"]
    said(ssh.client(agent(daemon), *sign, "mine.pub", "message", cwd=place, user=member))
    (place / "message.sig").unlink()
    theirs = signing_key(daemon, "ed")
    assert ssh.ask_as(agent(daemon), member, ssh.signing(theirs.blob, ssh.file())) == b"\5"
    stranger = as_user(STRANGER)
    done = ssh.client(agent(daemon), "ssh-add", "-l", cwd=place, user=stranger)
    assert (done.returncode, done.stdout) == (1, b"")
    for message in (ssh.signing(theirs.blob, ssh.file()), ssh.listing(), ssh.extension(b"query"), b"\0\0\0\1\xff"):
        assert ssh.ask_as(agent(daemon), stranger, message) == b"\5"
    denied = [fields for kind, fields in told(daemon.folder / "audit") if kind == "denied"]
    assert any(one.get("key") == "uid-0/ed" and one.get("context") == "file" for one in denied)
    assert {"keys.list", "sign"} <= {one["operation"] for one in denied if "key" not in one}


def test_status_and_its_default(daemon: Daemon, simulator: Simulator) -> None:
    found = daemon.status()["ssh"]
    assert found == {"socket": str(agent(daemon)), "connections": 0}
    with open_folder() as folder, running_daemon(simulator, folder) as other:
        assert not (other.runtime / "ssh.sock").exists()
        assert other.status()["ssh"] == {"socket": None, "connections": 0}
    daemon.request("GET", "/v1/status")


def test_the_socket_goes_with_the_daemon(simulator: Simulator) -> None:
    with open_folder() as folder:
        with running_daemon(simulator, folder, ssh_socket=True) as running:
            assert agent(running).stat().st_mode & 0o777 == 0o666
            path = agent(running)
        assert not path.exists()


@contextmanager
def ruled(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder:
        (folder / "policy.d").mkdir(mode=0o755)
        (folder / "policy.d" / "10.toml").write_text(text(*RULES))
        (folder / "policy.d" / "10.toml").chmod(0o644)
        with running_daemon(simulator, folder, ssh_socket=True) as running:
            yield running


def test_rules_select_by_context_and_key(simulator: Simulator) -> None:
    with ruled(simulator) as daemon, open_folder() as place:
        place.chmod(0o777)
        for name in ("deploy", "other"):
            daemon.curl(
                "--json", json.dumps({"name": name, "use": "ssh"}), "http://agent/v1/keys", user=as_user(MEMBER)
            )
        (place / "message").write_bytes(PAYLOAD)
        listed = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place, user=as_user(MEMBER))).splitlines()
        (place / "deploy.pub").write_text(listed[0])
        (place / "other.pub").write_text(listed[1])

        def sign(namespace: str, name: str, uid: int) -> bool:
            words = ["-Y", "sign", "-n", namespace, "-f", name, "message"]
            done = ssh.client(agent(daemon), "ssh-keygen", *words, cwd=place, user=as_user(uid))
            (place / "message.sig").unlink(missing_ok=True)
            return done.returncode == 0

        assert sign("git", "deploy.pub", MEMBER)
        assert not sign("file", "deploy.pub", MEMBER)
        assert not sign("ssh-auth", "deploy.pub", MEMBER)  # a login only, never a file
        assert sign("file", "deploy.pub", THIRD)
        other = base64.b64decode(listed[1].split()[1])
        assert ssh.ask_as(agent(daemon), as_user(THIRD), ssh.signing(other, ssh.file("git"))) == b"\5"
        seen = said(ssh.client(agent(daemon), "ssh-add", "-L", cwd=place, user=as_user(THIRD))).splitlines()
        assert seen == listed[:1]
        denied = [fields for kind, fields in told(daemon.folder / "audit") if kind == "denied"]
        assert [(one["key"].partition("/")[2], one.get("context"), one["rule"]) for one in denied] == [
            ("deploy", "file", "default"),
            ("deploy", None, "form"),
            ("other", "git", "default"),
        ]


SSHD = """
Port {port}
ListenAddress 127.0.0.1
HostKey {place}/host
AuthorizedKeysFile {place}/authorized
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
AllowAgentForwarding yes
PidFile none
LogLevel VERBOSE
"""
PRIVATE = """
set -e
mount -t tmpfs none /run && mkdir -m 755 /run/sshd
cat /etc/passwd > "$1/passwd"
grep -q ^sshd: /etc/passwd || echo 'sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin' >> "$1/passwd"
sed -i 's,^root:[^:]*:,root:x:,' "$1/passwd"
echo 'root:*:19000:0:99999:7:::' > "$1/shadow"
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow
exec "$2" -D -e -f "$1/sshd_config"
"""
"""In a mount namespace of its own: nothing of this machine is changed."""


def sshd() -> str:
    found = os.environ.get("TEE_AGENT_SSHD") or shutil.which("sshd", path=f"/usr/sbin:{os.environ['PATH']}")
    if not found:
        pytest.skip("sshd is not installed (openssh-server), and TEE_AGENT_SSHD names none")
    return found


@contextmanager
def server(place: Path, line: str) -> Iterator[int]:
    """A real sshd that lets the key log in as root; its port."""
    program = sshd()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tools.output(tools.need("ssh-keygen"), "-q", "-t", "ecdsa", "-N", "", "-f", place / "host")
    (place / "authorized").write_text(line)
    (place / "sshd_config").write_text(SSHD.format(port=port, place=place))
    argv = [tools.need("unshare"), "--mount", "sh", "-c", PRIVATE, "sh", str(place), program]
    with (place / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            while b"Server listening" not in (place / "log").read_bytes():
                assert process.poll() is None, (place / "log").read_text()
            yield port
        finally:
            process.terminate()


def login(
    daemon: Daemon, place: Path, port: int, *words: str, user: list[str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    options = ["-o", f"UserKnownHostsFile={place}/known", "-o", "StrictHostKeyChecking=accept-new", "-F", "none"]
    options += [
        "-o",
        "BatchMode=yes",
        "-o",
        "PreferredAuthentications=publickey",
        "-o",
        f"IdentityAgent={agent(daemon)}",
    ]
    argv = ["ssh", *options, "-p", str(port), *words]
    return ssh.client(agent(daemon), *argv, cwd=place, user=user or [])


@pytest.mark.parametrize("name", NAMES.values())
def test_a_login_to_a_real_server(daemon: Daemon, place: Path, name: str) -> None:
    line = public(daemon, place, name).read_text()
    with server(place, line) as port:
        done = login(daemon, place, port, "-v", "root@127.0.0.1", "echo", "hello from there")
        assert done.stdout == b"hello from there\n", done.stderr + (place / "log").read_bytes()
        assert b"publickey-hostbound" in done.stderr or b"bound agent to hostkey" in done.stderr
        (place / "authorized").write_text(public(daemon, place, "ed" if name != "ed" else "p256").read_text())
        (place / "authorized").write_text("")
        assert login(daemon, place, port, "root@127.0.0.1", "true").returncode == 255


def test_a_forwarded_agent_gets_nothing(daemon: Daemon, place: Path) -> None:
    line = public(daemon, place, "ed").read_text()
    with server(place, line) as port:
        keygen = f"ssh-keygen -Y sign -n file -f {place}/ed.pub {place}/message"
        done = login(daemon, place, port, "-A", "root@127.0.0.1", f"ssh-add -l; {keygen}; echo end")
        assert b"The agent has no identities." in done.stdout + done.stderr
        assert done.stdout.endswith(b"end\n")
        assert not (place / "message.sig").exists()
