"""Unit and container of a process, from its /proc/PID/cgroup text: only what the process itself can't have made.

A unit with ``Delegate=``, a user's own manager and a container with a cgroup tree of its own make cgroups below
themselves, under any name. So nothing below the first unit counts, with one exception: what containerd's own service
has directly below itself. Names of units are the system manager's, and cgroups at the root of the tree are root's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")
_ID = r"([0-9a-f]{64})"
_POD = r"pod[0-9a-f][0-9a-f_-]{0,63}"
_SCOPE = re.compile(rf"(?:docker|libpod|nerdctl|cri-containerd|crio)-{_ID}\.scope", re.ASCII)
"""Docker, Podman (not its monitor, libpod-conmon-), nerdctl, Kubernetes on containerd and CRI-O, with systemd."""
_AT_ROOT = re.compile(rf"/docker/{_ID}|/libpod_parent/libpod-{_ID}|/kubepods(?:/[a-z]+)?/{_POD}/{_ID}", re.ASCII)
"""Docker, Podman and Kubernetes without systemd (the runtimes' cgroupfs driver)."""
_BELOW_CONTAINERD = re.compile(rf"/system\.slice/containerd\.service/[a-z0-9_.-]+:cri-containerd:{_ID}", re.ASCII)
"""containerd without systemd under a kubelet that has it; containerd runs as root, and names no such cgroup else."""


def unit_of(text: str) -> str:
    """The first unit in a /proc/PID/cgroup text: slices lead to it and don't count. "" where there is none."""
    return _first(text, _unit)


def container_of(text: str) -> str:
    """The id (64 hex digits) of the outermost container of a known runtime, "" where there is none."""
    return _first(text, _container)


def _first(text: str, found: Callable[[str], str]) -> str:
    """In the unified hierarchy, else in systemd's own of version 1."""
    rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    unified = [path for number, controllers, path in rows if (number, controllers) == ("0", "")]
    legacy = [path for _, controllers, path in rows if controllers == "name=systemd"]
    return next((one for one in map(found, unified + legacy) if one), "")


def _unit(path: str) -> str:
    for part in path.strip("/").split("/"):
        if part.endswith(_UNIT_TYPES):
            # systemd puts "_" before names that would collide with the kernel's own files.
            return part.removeprefix("_")
        if not part.endswith(".slice"):
            break
    return ""


def _container(path: str) -> str:
    scope = _SCOPE.fullmatch(_unit(path))
    if scope:
        return scope[1]
    for pattern in (_AT_ROOT, _BELOW_CONTAINERD):
        match = pattern.match(path)
        # The whole of a name, or what the container has below it.
        if match and path[match.end() : match.end() + 1] in ("", "/"):
            return next(group for group in match.groups() if group)
    return ""
