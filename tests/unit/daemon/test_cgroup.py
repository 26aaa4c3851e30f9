"""Containers by cgroup: as the runtimes make them, and as others who may make cgroups would like to look."""

from __future__ import annotations

import pytest

from agent.daemon.cgroup import container_of, unit_of

A, B = "0123456789abcdef" * 4, "f" * 64
POD = "07ac8421-1c0c-4e0f-9f0b-2d7a33b0c2a1"
POD_ = POD.replace("-", "_")


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        (f"/system.slice/docker-{A}.scope", f"docker-{A}.scope"),
        (f"/web.slice/web-front.slice/docker-{A}.scope", f"docker-{A}.scope"),
        (f"/system.slice/docker-{A}.scope/init.scope", f"docker-{A}.scope"),
        (f"/docker/{A}", ""),
        (f"/docker/{A}/system.slice/app.service", ""),
        (f"/machine.slice/libpod-{A}.scope", f"libpod-{A}.scope"),
        (f"/machine.slice/libpod-{A}.scope/container", f"libpod-{A}.scope"),
        (f"/libpod_parent/libpod-{A}", ""),
        (f"/system.slice/nerdctl-{A}.scope", f"nerdctl-{A}.scope"),
        (
            f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_}.slice/cri-containerd-{A}.scope",
            f"cri-containerd-{A}.scope",
        ),
        (f"/kubepods.slice/kubepods-pod{POD_}.slice/crio-{A}.scope", f"crio-{A}.scope"),
        (f"/kubepods/burstable/pod{POD}/{A}", ""),
        (f"/kubepods/pod{POD}/{A}", ""),
        (
            f"/system.slice/containerd.service/kubepods-besteffort-pod{POD_}.slice:cri-containerd:{A}",
            "containerd.service",
        ),
        # A container's own cgroup tree may hold what looks like another container: the outer one counts.
        (f"/system.slice/docker-{A}.scope/docker/{B}", f"docker-{A}.scope"),
        (f"/docker/{A}/docker/{B}", ""),
        (f"/docker/{A}/system.slice/docker-{B}.scope", ""),
    ],
)
def test_genuine(path: str, unit: str) -> None:
    assert container_of(f"0::{path}\n") == A
    assert unit_of(f"0::{path}\n") == unit


@pytest.mark.parametrize(
    "path",
    [
        # Below a unit with Delegate=, below a user's manager, below a login: made by those who want to be taken for it.
        f"/system.slice/web.service/docker-{A}.scope",
        f"/system.slice/web.service/docker/{A}",
        f"/system.slice/web.service/kubepods/pod{POD}/{A}",
        f"/system.slice/web.service/libpod-payload-{A}",
        f"/system.slice/web.service/system.slice/docker-{A}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope/container",
        f"/user.slice/user-1000.slice/user@1000.service/docker/{A}",
        f"/user.slice/user-1000.slice/session-3.scope/docker-{A}.scope",
        f"/system.slice/containerd.service/x/kubepods.slice:cri-containerd:{A}",
        f"/system.slice/web.service/kubepods.slice:cri-containerd:{A}",
        f"/user.slice/user-1000.slice/user@1000.service/containerd.service/x:cri-containerd:{A}",
        # Beyond the reader's own root of cgroups, or no cgroup of a runtime.
        f"/../docker/{A}",
        f"/../../system.slice/docker-{A}.scope",
        f"/docker/{A[:-1]}",
        f"/docker/{A}a",
        f"/docker/{A.upper()}",
        f"/docker/x/{A}",
        f"/dockers/{A}",
        f"/x/docker/{A}",
        f"/docker/buildkit/{A}",
        f"/kubepods/{A}",
        f"/kubepods/burstable/x/pod{POD}/{A}",
        f"/kubepods/burstable/pod/{A}",
        f"/libpod_parent/{A}",
        # Monitors run on the host, and the names of other units are nobody's containers.
        f"/machine.slice/libpod-conmon-{A}.scope",
        f"/system.slice/docker-{A}.service",
        f"/system.slice/docker-{A}.scope.service",
        f"/system.slice/my-docker-{A}.scope",
        f"/system.slice/docker-{A}x.scope",
        f"/system.slice/docker-{A}.scope (deleted)",
        "/",
        "",
    ],
)
def test_forged_or_none(path: str) -> None:
    assert container_of(f"0::{path}\n") == ""


def test_version_1_and_both() -> None:
    assert container_of(f"4:memory:/docker/{B}\n1:name=systemd:/docker/{A}\n") == A
    # Docker without systemd on a machine with both: its processes are moved in version 1 only.
    assert container_of(f"1:name=systemd:/docker/{A}\n0::/system.slice/containerd.service\n") == A
    assert container_of(f"1:name=systemd:/docker/{A}\n0::/docker/{B}\n") == B
    # Controllers that anybody may have been given count for nothing.
    assert container_of(f"4:memory:/docker/{A}\n0::/system.slice/web.service\n") == ""
    assert container_of(f"7:name=other:/docker/{A}\n0::/\n") == ""
    assert container_of(f"4:memory:/x:name=systemd:/docker/{A}\n") == ""


@pytest.mark.parametrize("text", ["", "garbage", "0::", "0:/docker/" + A, "::::"])
def test_broken_texts(text: str) -> None:
    assert container_of(text) == ""
