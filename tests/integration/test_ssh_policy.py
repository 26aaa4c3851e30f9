"""Who gets what from the ssh socket: other uses' keys, other bytes, other users, rules; what the audit log has of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.keydoc import decode
from agent.core.sshwire import PublicKey
from agent.verify.jws import verify_jws
from tests.support import keys, ssh
from tests.support.access import rule
from tests.support.auditlogs import denials, told
from tests.support.daemon import GROUP, Daemon, as_user
from tests.support.sshclients import PAYLOAD, agent, public, ruled, said, serving, shared_folder, signing_key
from tests.support.waiting import awaited

pytestmark = pytest.mark.fuse
MEMBER, STRANGER, THIRD = 1, 2, 3
"""daemon, bin and sys: ssh-keygen wants users that have a name, and every Debian has these."""
RULES = (
    rule("git", who={"user": str(MEMBER)}, uses="ssh", contexts=["git", "ssh-auth"]),
    rule("own", who={"user": str(MEMBER)}, operations=["keys.create", "keys.list", "keys.rotate"]),
    rule("one", who={"user": str(THIRD)}, operations=["keys.list", "sign"], keys=f"uid-{MEMBER}/deploy"),
)


@pytest.fixture(scope="module")
def daemon(pki_state: Path) -> Iterator[Daemon]:
    with serving(pki_state) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    with shared_folder() as folder:
        yield folder


def test_a_key_for_something_else_is_none_for_ssh(daemon: Daemon) -> None:
    spki = keys.document(daemon, "notssh")
    other = PublicKey.of(decode(spki).spki)
    assert ssh.ask(agent(daemon), ssh.signing(other.blob, ssh.file()), ssh.signing(other.blob, ssh.login(other))) == [
        b"\5",
        b"\5",
    ]


def test_no_other_protocol_s_bytes_are_signed(daemon: Daemon, place: Path) -> None:
    """Nor those of our own other formats; and what ssh signed passes for none of them."""
    key = signing_key(daemon, "ed")
    before = len(denials(daemon.folder / "audit", 0, "uid-0/ed"))
    others = [b"", bytes(64), b"eyJhbGciOiJFZERTQSJ9.e30", b"tee-agent/v1\0", b"\x84jSignature1@@@", ssh.login(key)[4:]]
    assert ssh.ask(agent(daemon), *(ssh.signing(key.blob, data) for data in others)) == [b"\5"] * len(others)
    assert ssh.client(agent(daemon), "ssh-add", "-T", public(daemon, place, "ed"), cwd=place).returncode != 0
    denied = denials(daemon.folder / "audit", before + len(others) + 1, "uid-0/ed")[before:]
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
    awaited(signed, lambda count: count == 3)  # written within two seconds
    daemon.request("DELETE", "/v1/keys/counted")


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

    def is_told() -> bool:
        denied = denials(daemon.folder / "audit", 0)
        of_key = any(one.get("key") == "uid-0/ed" and one.get("context") == "file" for one in denied)
        return of_key and {"keys.list", "sign"} <= {one["operation"] for one in denied if "key" not in one}

    awaited(is_told)


def test_rules_select_by_context_and_key(daemon: Daemon, place: Path) -> None:
    with ruled(daemon.simulator, *RULES) as strict:
        for name in ("deploy", "other"):
            strict.curl(
                "--json", json.dumps({"name": name, "use": "ssh"}), "http://agent/v1/keys", user=as_user(MEMBER)
            )
        listed = said(ssh.client(agent(strict), "ssh-add", "-L", cwd=place, user=as_user(MEMBER))).splitlines()
        (place / "deploy.pub").write_text(listed[0])
        (place / "other.pub").write_text(listed[1])

        def sign(namespace: str, name: str, uid: int) -> bool:
            words = ["-Y", "sign", "-n", namespace, "-f", name, "message"]
            done = ssh.client(agent(strict), "ssh-keygen", *words, cwd=place, user=as_user(uid))
            (place / "message.sig").unlink(missing_ok=True)
            return done.returncode == 0

        assert sign("git", "deploy.pub", MEMBER)
        assert not sign("file", "deploy.pub", MEMBER)
        assert not sign("ssh-auth", "deploy.pub", MEMBER)  # a login only, never a file
        assert sign("file", "deploy.pub", THIRD)
        other = base64.b64decode(listed[1].split()[1])
        assert ssh.ask_as(agent(strict), as_user(THIRD), ssh.signing(other, ssh.file("git"))) == b"\5"
        seen = said(ssh.client(agent(strict), "ssh-add", "-L", cwd=place, user=as_user(THIRD))).splitlines()
        assert seen == listed[:1]
        denied = denials(strict.folder / "audit", 3)
        assert [(one["key"].partition("/")[2], one.get("context"), one["rule"]) for one in denied] == [
            ("deploy", "file", "default"),
            ("deploy", None, "form"),
            ("other", "git", "default"),
        ]
