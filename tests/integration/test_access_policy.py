"""The access policy at the real daemon: real users, groups, cgroups and exec."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.access import put, rule
from tests.support.cgroups import cgroup, inside
from tests.support.daemon import (
    CLI,
    GROUP,
    MEMBER,
    PYTHON,
    ROOT,
    STRANGER,
    Daemon,
    as_user,
    open_folder,
    running_daemon,
)
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
BOX, OTHER_BOX = "1" * 64, "2" * 64
SLICE = f"tatest{os.getpid()}.slice"
SIGN = ["-d", "payload", "http://agent/v1/sign"]

RULES = (
    rule("no-boxed-root", "deny", who={"user": "0", "container": OTHER_BOX}, operations="*"),
    rule("staff", who={"group": str(GROUP)}, contexts="staff/*"),
    rule("unit", who={"unit": "web.service", "user": str(STRANGER)}, operations=["sign", "status"]),
    rule("shop", who={"unit": "web.service"}, operations=["keys.create", "keys.destroy"], namespace="shop"),
    rule("box", who={"container": BOX}, operations="sign"),
    rule("brief", who={"unit": "brief.service"}, operations="keys.create", persistent=False, namespace="brief"),
    rule("lasting", who={"unit": "lasting.service"}, operations="keys.create", persistent=True, namespace="lasting"),
)


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    with open_folder() as folder:
        put(folder, *RULES)
        with running_daemon(simulator, folder) as running:
            yield running


def code(answer: tuple[int, bytes]) -> str:
    """ "" for an answer that is none of our refusals."""
    status, body = answer
    if status < 400:
        return ""
    found = json.loads(body)
    assert found["status"] == status
    return str(found["code"])


def test_root_may(daemon: Daemon) -> None:
    for words in (SIGN, ["http://agent/v1/status"], ["http://agent/v1/keys"]):
        assert daemon.curl(*words)[0] == 200


def test_a_member_by_supplementary_group_only(daemon: Daemon) -> None:
    member = as_user(MEMBER, GROUP)
    assert daemon.curl("-d", "x", "http://agent/v1/sign?context=staff/a", user=member)[0] == 200
    status, body = daemon.curl("-d", "x", "http://agent/v1/sign?context=root/a", user=member)
    assert (status, json.loads(body)["code"]) == (403, "denied.policy")
    # In which unit the tests run is the machine's affair.
    assert json.loads(body)["detail"].startswith(f"sign is refused to uid {MEMBER}, ")
    assert ": no rule allows sign" in json.loads(body)["detail"]
    assert code(daemon.curl("http://agent/v1/status", user=member)) == "denied.policy"
    # [daemon] allow_groups has that group: with rules it does not count, nor for anybody else's keys.
    assert code(daemon.curl("http://agent/v1/keys", user=member)) == "denied.policy"


def test_the_same_user_without_the_group(daemon: Daemon) -> None:
    assert code(daemon.curl("-d", "x", "http://agent/v1/sign?context=staff/a", user=as_user(MEMBER))) == "denied"


def test_another_user(daemon: Daemon) -> None:
    for words in (SIGN, ["http://agent/v1/status"], ["http://agent/v1/keys"], ["http://agent/v1/nothing"]):
        assert code(daemon.curl(*words, user=as_user(STRANGER))) == "denied"


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        ("web.service", ""),
        ("web.service/sub/other.service", ""),
        ("other.service", "denied"),
        ("other.service/web.service", "denied"),
        ("web.service.d/web.service", "denied"),
    ],
)
def test_units(daemon: Daemon, path: str, refusal: str) -> None:
    with cgroup(f"/{SLICE}/{path}") as group:
        assert code(daemon.curl(*SIGN, user=[*inside(group), *as_user(STRANGER)])) == refusal
        # The unit is not all that the rule names.
        assert code(daemon.curl(*SIGN, user=[*inside(group), *as_user(MEMBER)])) in ("denied", "denied.policy")


@pytest.mark.parametrize(
    ("path", "refusal"),
    [
        (f"docker-{BOX}.scope", ""),
        (f"docker-{BOX}.scope/inner", ""),
        (f"docker-{OTHER_BOX}.scope", "denied"),
        # What a unit may make below itself.
        (f"other.service/docker-{BOX}.scope", "denied"),
        (f"other.service/docker/{BOX}", "denied"),
        (f"docker-{OTHER_BOX}.scope/docker-{BOX}.scope", "denied"),
    ],
)
def test_containers(daemon: Daemon, path: str, refusal: str) -> None:
    with cgroup(f"/{SLICE}/{path}") as group:
        assert code(daemon.curl(*SIGN, user=[*inside(group), *as_user(STRANGER)])) == refusal


def test_root_in_a_container_that_a_rule_denies(daemon: Daemon) -> None:
    with cgroup(f"/{SLICE}/docker-{OTHER_BOX}.scope") as group:
        assert code(daemon.curl(*SIGN, user=inside(group))) == "denied.policy"
    with cgroup(f"/{SLICE}/docker-{BOX}.scope") as group:
        assert code(daemon.curl("http://agent/v1/status", user=inside(group))) == ""


def test_a_namespace_is_the_rule_s(daemon: Daemon) -> None:
    make = ["--json", json.dumps({"name": "till", "use": "raw"}), "http://agent/v1/keys"]
    with cgroup(f"/{SLICE}/web.service") as group:
        web = [*inside(group), *as_user(MEMBER)]
        status, made = daemon.curl(*make, user=web)
        assert (status, json.loads(made)["namespace"]) == (201, "shop")
        # Making is not using, and its own namespace is not another's.
        assert code(daemon.curl("-d", "x", "http://agent/v1/keys/till/sign", user=web)) == "denied.policy"
        other = ["--json", json.dumps({"name": "till", "use": "raw", "namespace": "uid-0"}), "http://agent/v1/keys"]
        assert code(daemon.curl(*other, user=web)) == "denied.policy"
        assert code(daemon.curl(*make, user=as_user(MEMBER, GROUP))) == "denied.policy"
        assert daemon.curl("-X", "DELETE", "http://agent/v1/keys/till", user=web)[0] == 200


def test_keys_of_this_boot_only_and_persistent_ones_only(daemon: Daemon) -> None:
    def made(unit: str, name: str, **more: bool) -> str:
        body = json.dumps({"name": name, "use": "raw", **more})
        with cgroup(f"/{SLICE}/{unit}") as group:
            user = [*inside(group), *as_user(STRANGER)]
            return code(daemon.curl("--json", body, "http://agent/v1/keys", user=user))

    assert made("brief.service", "a", persistent=True) == "denied.policy"
    assert made("brief.service", "a") == made("brief.service", "b", persistent=False) == ""
    assert made("lasting.service", "a") == made("lasting.service", "a", persistent=False) == "denied.policy"
    # Allowed: it fails later, for this daemon has no root to seal keys under.
    assert made("lasting.service", "a", persistent=True) == "config.sealing"


EXEC = """
import os, socket, sys
again = sys.argv[2:] == ["again"]
s = socket.socket(fileno=9) if again else socket.socket(socket.AF_UNIX)
s.settimeout(60)
if not again:
    s.connect(sys.argv[1])
s.sendall(b"POST /v1/sign?context=staff/x HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 1\\r\\n\\r\\nx")
head = b""
while b"\\r\\n\\r\\n" not in head:
    head += s.recv(1)
length = int(head.lower().split(b"content-length:")[1].split()[0])
while length:
    length -= len(s.recv(length))
print(head.split()[1].decode(), flush=True)
if not again:
    os.dup2(s.fileno(), 9, inheritable=True)
    os.execvp(sys.argv[3], [*sys.argv[3:], sys.executable, "-I", "-S", "-c", sys.argv[2], sys.argv[1], "again"])
"""


@pytest.mark.parametrize("then", [["env"], as_user(STRANGER)], ids=["program", "user"])
def test_a_process_that_execs_after_connecting_stays_who_it_was(daemon: Daemon, then: list[str]) -> None:
    def statuses(before: list[str]) -> list[str]:
        argv = [*before, PYTHON, "-I", "-S", "-c", EXEC, str(daemon.socket), EXEC, *then]
        return subprocess.run(argv, capture_output=True, check=True, timeout=60, text=True).stdout.split()

    # Root becomes another program, or another user's: the connection was root's.
    assert statuses([]) == ["200", "200"]
    if then == ["env"]:
        assert statuses(as_user(MEMBER, GROUP)) == ["200", "200"]


def test_one_process_s_rules_are_not_the_next_one_s(daemon: Daemon) -> None:
    """Decisions are remembered; not for callers that differ in anything."""
    with cgroup(f"/{SLICE}/web.service") as group:
        for _ in range(2):
            assert code(daemon.curl(*SIGN, user=[*inside(group), *as_user(STRANGER)])) == ""
            assert code(daemon.curl(*SIGN, user=as_user(STRANGER))) == "denied"


def test_explain_says_what_the_daemon_does(daemon: Daemon) -> None:
    with cgroup(f"/{SLICE}/web.service") as group:
        for user, unit in ((STRANGER, "web.service"), (STRANGER, "other.service"), (MEMBER, "web.service")):
            words = ["--unit", unit, "--user", str(user), "sign", "--json"]
            argv = [*CLI, "policy", "explain", "--config", str(daemon.config), *words]
            said = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
            place = inside(group) if unit == "web.service" else []
            allowed = daemon.curl(*SIGN, user=[*place, *as_user(user)])[0] == 200
            assert json.loads(said.stdout)["allowed"] == allowed
            assert said.returncode == (0 if allowed else 77)
