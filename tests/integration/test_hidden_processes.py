"""A /proc that hides processes from the signer (hidepid=2): where a caller runs is not known, and that counts as denied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.access import put, rule
from tests.support.daemon import GROUP, MEMBER, Daemon, as_user, open_folder, running_daemon
from tests.support.simulator import Simulator, running_simulator

pytestmark = pytest.mark.fuse
HIDING = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
NO_ROOT_FROM_CONTAINERS = rule("boxed", "deny", who={"user": "root", "container": "*"}, operations="*")


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@contextmanager
def running(simulator: Simulator, within: list[str], *rules: Mapping[str, Any]) -> Iterator[Daemon]:
    with open_folder() as folder:
        put(folder, *rules)
        with running_daemon(simulator, folder, within=within) as daemon:
            yield daemon


@pytest.mark.parametrize(("within", "status"), [([], 200), (HIDING, 403)], ids=["seen", "hidden"])
def test_a_deny_rule_for_containers_holds(simulator: Simulator, within: list[str], status: int) -> None:
    with running(simulator, within, NO_ROOT_FROM_CONTAINERS) as daemon:
        reply = daemon.post("/v1/sign", b"x")
        assert reply.status == status
        assert status == 200 or "boxed" in reply.json["detail"]


def test_an_allow_rule_for_a_unit_does_not(simulator: Simulator) -> None:
    named = rule("unit", who={"user": str(MEMBER), "unit": "web.service"}, operations="metrics")
    with running(simulator, HIDING, named) as daemon:
        assert daemon.curl("http://agent/metrics", user=as_user(MEMBER, GROUP))[0] == 403


def test_users_and_groups_are_known_all_the_same_and_an_admin_is_told(simulator: Simulator) -> None:
    group = rule("group", who={"group": str(GROUP)}, operations=["metrics", "challenge"])
    with running(simulator, HIDING, group) as daemon:
        assert daemon.curl("http://agent/metrics", user=as_user(MEMBER, GROUP))[0] == 200
        assert "hidepid" in daemon.log
        assert any("hidepid" in note for note in daemon.status()["notes"])
    with running(simulator, [], group) as daemon:
        assert "hidepid" not in daemon.log
