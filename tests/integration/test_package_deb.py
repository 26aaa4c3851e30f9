"""The Debian packages, built as `make deb` builds them: what is in them, what is not, and that it starts."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import pytest

from agent import __version__
from agent.boot.report import Report
from agent.cli import COMMANDS
from tests.support import tools

ROOT = Path(__file__).resolve().parents[2]
AGENT, INITRAMFS, CLIENT = "tee-agent", "tee-agent-initramfs", "python3-tee-agent-client"
ALL = (AGENT, INITRAMFS, CLIENT)
LIBRARY = "usr/lib/tee-agent"
SHIPPED = ("agent", "snp", "tdx")
NOT_SHIPPED = re.compile(
    r"(^|[/._-])(sim|simulators?|fakes?|mocks?|samples?|tests?|tas\.8|hub|bench)([/._-]|$)|^usr/lib/tee-agent/tas/"
)
HOOKS = {
    "usr/share/initramfs-tools/hooks/tee-agent",
    "usr/share/initramfs-tools/scripts/init-bottom/tee-agent",
    "usr/share/initramfs-tools/scripts/local-top/tee-agent",
    "usr/share/initramfs-tools/scripts/panic/tee-agent",
}


def build(folder: Path, tree: Path) -> dict[str, Path]:
    for name in ("dpkg-buildpackage", "dh", "dh_python3", "lowdown"):
        tools.need(name)
    tools.output("sh", tree / "packaging" / "deb.sh", folder)
    return {path.name.split("_")[0]: path for path in sorted(folder.glob("*.deb"))}


def copy(tree: Path, target: Path) -> Path:
    """What the packages are made of, with new times, modes and owners."""
    for name in (*SHIPPED, "initramfs", "systemd", "packaging"):
        shutil.copytree(
            tree / name, target / name, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__")
        )
    (target / "packaging/debian/rules").chmod(0o755)
    return target


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree at one moment."""
    return copy(ROOT, tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def packages(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return build(tmp_path_factory.mktemp("packages"), tree)


def members(package: Path, what: str = "--fsys-tarfile") -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Everything that is no folder, with its content; names without the leading "./"."""
    tar = subprocess.run(["dpkg-deb", what, package], capture_output=True, check=True, timeout=60).stdout
    with tarfile.open(fileobj=BytesIO(tar)) as archive:
        for member in archive:
            member.name = member.name.removeprefix("./")
            content = archive.extractfile(member) if member.isfile() else None
            if not member.isdir():
                yield member, content.read() if content else b""


def files(package: Path) -> set[str]:
    return {member.name for member, _ in members(package)}


def field(package: Path, name: str) -> str:
    return tools.output("dpkg-deb", "--field", package, name).strip()


def test_three_packages_of_this_version_for_any_machine(packages: dict[str, Path]) -> None:
    assert sorted(path.name for path in packages.values()) == [
        f"python3-tee-agent-client_{__version__}_all.deb",
        f"tee-agent-initramfs_{__version__}_all.deb",
        f"tee-agent_{__version__}_all.deb",
    ]
    assert f"tee-agent (= {__version__})" in field(packages[INITRAMFS], "Depends")


def test_all_of_the_agent_and_nothing_else_of_the_tree(packages: dict[str, Path], tree: Path) -> None:
    modules = {f"{LIBRARY}/{path.relative_to(tree)}" for name in SHIPPED for path in (tree / name).rglob("*.py")}
    found = {name for name in files(packages[AGENT]) if name.startswith(LIBRARY)}
    data = {f"{LIBRARY}/{name}" for name in ("__main__.py", "boot-report", "agent/daemon/openapi.json")}
    assert found == modules | data


@pytest.mark.parametrize("name", ["usr/lib/tee-agent/sim/tree.py", "usr/bin/fake-tas", "usr/lib/tee-agent/tas/web.py"])
def test_the_pattern_finds_what_must_not_be_there(name: str) -> None:
    assert NOT_SHIPPED.search(name)
    assert not NOT_SHIPPED.search("usr/lib/tee-agent/agent/tas_client.py")


@pytest.mark.parametrize("name", ALL)
def test_no_simulator_and_no_test_code(packages: dict[str, Path], name: str) -> None:
    assert [member for member in sorted(files(packages[name])) if NOT_SHIPPED.search(member)] == []
    imports = re.compile(rb"^\s*(from|import) (sim|tests|tas|hub|bench)\b", re.MULTILINE)
    assert [member.name for member, content in members(packages[name]) if imports.search(content)] == []


@pytest.mark.parametrize("name", ALL)
def test_everything_is_root_s_to_write(packages: dict[str, Path], name: str) -> None:
    for member, _ in members(packages[name]):
        assert (member.uid, member.gid) == (0, 0)
        executable = member.name.startswith("usr/bin/") or member.name.rpartition("/")[2] in {
            "boot",
            "boot-report",
            "network",
            "tee-agent.rtupdate",
        }
        wanted = 0o755 if executable or member.name in HOOKS else 0o644
        assert member.mode == wanted, member.name


def test_the_initramfs_parts_are_where_the_hook_looks(packages: dict[str, Path]) -> None:
    parts = {f"{LIBRARY}/initramfs/{name}" for name in ("boot", "network", "closure.py")}
    found = {name for name in files(packages[INITRAMFS]) if not name.startswith("usr/share/doc/")}
    assert found == HOOKS | parts
    hook = next(content for member, content in members(packages[INITRAMFS]) if "/hooks/" in member.name)
    assert f"parts=/{LIBRARY}/initramfs\n".encode() in hook


@pytest.mark.parametrize("name", [AGENT, INITRAMFS])
def test_every_change_of_the_package_renews_the_initramfs(packages: dict[str, Path], name: str) -> None:
    control = {member.name: content.decode() for member, content in members(packages[name], "--ctrl-tarfile")}
    assert control["triggers"].splitlines().count("activate-noawait update-initramfs") == 1


def test_what_the_modules_import_is_depended_on(packages: dict[str, Path]) -> None:
    wanted = {"asn1crypto", "cryptography", "httptools", "requests", "rfc8785", "sdnotify"}
    pattern = re.compile(rb"^\s*(?:from|import) ([a-z0-9_]+)", re.MULTILINE)
    found = {
        match.decode()
        for member, content in members(packages[AGENT])
        if member.name.endswith(".py")
        for match in pattern.findall(content)
    }
    outside = found - set(sys.stdlib_module_names) - {*SHIPPED, "_typeshed"}
    assert outside <= wanted
    depends = field(packages[AGENT], "Depends")
    assert [name for name in sorted(wanted) if f"python3-{name} (>= " not in depends] == []


def test_the_client_is_one_module_that_needs_python_alone(packages: dict[str, Path], tree: Path) -> None:
    found = {member.name: content for member, content in members(packages[CLIENT]) if "/doc/" not in member.name}
    module = "usr/lib/python3/dist-packages/tee_agent_client.py"
    assert found == {module: (tree / "agent/tee_agent_client.py").read_bytes()}
    assert {word.split()[0] for word in field(packages[CLIENT], "Depends").split(",")} == {"python3:any"}


def test_units_users_folders_and_rules_are_installed(packages: dict[str, Path], tree: Path) -> None:
    units = {f"usr/lib/systemd/system/{path.name}" for path in (tree / "systemd").glob("tee-agent*")}
    assert units | {
        "usr/lib/sysusers.d/tee-agent.conf",
        "usr/lib/tmpfiles.d/tee-agent.conf",
        "usr/lib/udev/rules.d/99-tee-agent.rules",
    } <= files(packages[AGENT])
    scripts = {member.name: content.decode() for member, content in members(packages[AGENT], "--ctrl-tarfile")}
    assert "systemd-sysusers" in scripts["postinst"]
    assert "systemd-tmpfiles" in scripts["postinst"]
    assert scripts["postinst"].index("systemd-sysusers") < scripts["postinst"].index("deb-systemd-invoke")
    enabled = set(re.findall(r"deb-systemd-helper enable '([^']+)'", scripts["postinst"]))
    assert enabled == {"tee-agent.target", "tee-agent-boot-report.service", "tee-agent-endorsements.timer"}


def test_every_page_of_the_manual_is_there_and_readable(packages: dict[str, Path], tree: Path, tmp_path: Path) -> None:
    man = tools.need("man")
    pages = {path.stem for path in (tree / "packaging" / "man").glob("*.md")} - {"tas.8"}
    found = {name for name in files(packages[AGENT]) if name.startswith("usr/share/man/")}
    assert found == {f"usr/share/man/man{page[-1]}/{page}.gz" for page in pages}
    tools.output("dpkg-deb", "-x", packages[AGENT], tmp_path)
    for page in pages:
        text = tools.output(man, "-P", "cat", tmp_path / f"usr/share/man/man{page[-1]}/{page}.gz")
        name, _, section = page.rpartition(".")
        assert text.lstrip().startswith(f"{name}({section})")
        assert re.search(rf"^NAME\n +{re.escape(name)} +- ", text, re.MULTILINE)
        assert re.search(r"^SYNOPSIS$|^DESCRIPTION$", text, re.MULTILINE)


def test_lintian_finds_nothing(packages: dict[str, Path]) -> None:
    said = tools.output(tools.need("lintian"), "--allow-root", "--fail-on", "error,warning", *packages.values())
    assert not re.search(r"^[EW]:", said, re.MULTILINE), said


def test_the_installed_layout_runs_isolated(packages: dict[str, Path], tmp_path: Path) -> None:
    tools.output("dpkg-deb", "-x", packages[AGENT], tmp_path)
    launcher = (tmp_path / "usr/bin/tee-agent").read_text()
    assert launcher == f'#!/bin/sh\nexec /usr/bin/python3 -I -B /{LIBRARY} "$@"\n'
    # A version of its own shows that these modules run, and none of the tree that this interpreter knows.
    (tmp_path / LIBRARY / "agent" / "__init__.py").write_text('__version__ = "installed"\n')
    python = (sys.executable, "-I", "-B", tmp_path / LIBRARY)
    assert tools.output(*python, "--version") == "tee-agent installed\n"
    for command in COMMANDS:
        assert f"tee-agent {command}" in tools.output(*python, command, "--help")
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_boot_report_is_found_in_the_installed_layout(packages: dict[str, Path], tmp_path: Path) -> None:
    tools.output("dpkg-deb", "-x", packages[AGENT], tmp_path)
    script = (tmp_path / LIBRARY / "boot-report").read_text()
    code = script.partition("-c '\n")[2].rpartition("'")[0].replace(f'"/{LIBRARY}"', repr(str(tmp_path / LIBRARY)))
    code = code.replace("main()", f"main(__import__('pathlib').Path({str(tmp_path / 'boot.json')!r}))")
    (tmp_path / "boot.json").write_text(json.dumps(asdict(Report(outcome="unlocked"))))
    assert "<5>early boot: unlocked\n" in tools.output(sys.executable, "-I", "-B", "-c", code)


def test_the_same_tree_gives_the_same_bytes(packages: dict[str, Path], tree: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again", copy(tree, tmp_path / "elsewhere"))
    digests = [
        {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in each.items()}
        for each in (packages, again)
    ]
    assert digests[0] == digests[1]
