"""The access policy's folder: root's files or none at all."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from agent import rulefiles
from agent.core.config import Config
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import ConfigError
from agent.daemon.privileges import User
from tests.support.access import rule, text

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: who owns a file is the point")

GOOD = text(rule(who={"user": "1000"}))
NOBODY = User(65534, 65534)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "policy.d"
    made.mkdir(mode=0o755)
    put(made, "10.toml")
    return made


def put(folder: Path, name: str, content: str = GOOD, mode: int = 0o644) -> Path:
    path = folder / name
    path.write_text(content)
    path.chmod(mode)
    return path


def config(folder: Path) -> Config:
    return Config(str(folder.parent / "tee-agent.toml"))


def refused(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        rulefiles.load(config(folder))
    return caught.value.message


def test_no_folder_is_no_rule(tmp_path: Path) -> None:
    assert rulefiles.read(tmp_path / "policy.d") == {}


def test_files_in_order_and_nothing_else(folder: Path) -> None:
    for name in ("9.toml", "b.toml", "B.toml", ".hidden.toml", "10.toml~", "10.toml.dpkg-old", "README"):
        put(folder, name, "not TOML [" if not name.endswith(".toml") or name.startswith(".") else "")
    assert list(rulefiles.read(folder)) == [str(folder / name) for name in ("10.toml", "9.toml", "B.toml", "b.toml")]
    (found,) = rulefiles.load(config(folder)).rules
    assert (found.name, found.source) == ("r", str(folder / "10.toml"))


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o777])
def test_what_others_may_write_is_refused(folder: Path, mode: int) -> None:
    (folder / "10.toml").chmod(mode)
    assert refused(folder) == f"{folder}/10.toml: others than root may change it"
    (folder / "10.toml").chmod(0o644)
    folder.chmod(mode | 0o111)
    assert refused(folder) == f"{folder}: others than root may change it"


def test_another_s_files_are_refused(folder: Path) -> None:
    os.chown(folder / "10.toml", 1000, -1)
    assert "others than root" in refused(folder)
    os.chown(folder / "10.toml", 0, 1000)
    assert len(rulefiles.load(config(folder)).rules) == 1
    os.chown(folder, 1000, 0)
    assert refused(folder) == f"{folder}: others than root may change it"


def test_links_are_judged_by_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    target = put(tmp_path, "elsewhere", text(rule("linked", who={"user": "1"})))
    (folder / "20.toml").symlink_to(target)
    assert [one.name for one in rulefiles.load(config(folder)).rules] == ["r", "linked"]
    os.chown(target, 1000, -1)
    assert refused(folder) == f"{folder}/20.toml: others than root may change it"


def test_what_is_no_file(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "20.toml")
    assert refused(folder) == f"{folder}/20.toml: not a regular file"
    (folder / "20.toml").unlink()
    (folder / "20.toml").mkdir()
    assert refused(folder) == f"{folder}/20.toml: not a regular file"
    (folder / "20.toml").rmdir()
    (folder / "20.toml").symlink_to("nowhere")
    assert "cannot be read" in refused(folder)
    other = tmp_path / "x"
    other.mkdir()
    (other / "policy.d").write_text("")
    assert "cannot be read" in refused(other / "policy.d")


def test_bounds(folder: Path) -> None:
    put(folder, "10.toml", "#" * rulefiles.MAX_BYTES)
    assert rulefiles.load(config(folder)).rules == ()
    put(folder, "10.toml", "#" * (rulefiles.MAX_BYTES + 1))
    assert "larger than" in refused(folder)
    (folder / "10.toml").write_bytes(b"\xff")
    assert "not valid UTF-8" in refused(folder)
    for number in range(rulefiles.MAX_FILES + 1):
        put(folder, f"{number}.toml", "")
    assert "more than 100 files" in refused(folder)


def test_the_signer_must_be_able_to_read_it(folder: Path) -> None:
    rulefiles.require_readable(folder, NOBODY)
    rulefiles.require_readable(folder.parent / "none", NOBODY)
    for path, mode in ((folder / "10.toml", 0o600), (folder, 0o750), (folder, 0o744)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(ConfigError, match="the signer's user can't read it"):
            rulefiles.require_readable(folder, NOBODY)
        path.chmod(before)
    (folder / "10.toml").chmod(0o640)
    os.chown(folder / "10.toml", 0, NOBODY.gid)
    rulefiles.require_readable(folder, NOBODY)


def test_names_are_this_machine_s(folder: Path) -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    put(folder, "10.toml", text(rule(who={"user": user.pw_name, "group": group.gr_name})))
    (found,) = rulefiles.load(config(folder)).rules
    assert (found.users, found.groups) == (frozenset({user.pw_uid}), frozenset({group.gr_gid}))


def test_without_rules_the_configuration_counts_and_its_unknown_names_are_noted(folder: Path) -> None:
    daemon = DaemonConfig(allow_users=("1000", "no-such-user"), allow_groups=())
    put(folder, "10.toml", "")
    found = rulefiles.load(Config(str(folder.parent / "c.toml"), daemon=daemon))
    assert found.members.uids == frozenset({1000})
    assert found.notes == ("[daemon] allows no-such-user, which this machine does not know",)
    put(folder, "10.toml", GOOD)
    assert rulefiles.load(Config(str(folder.parent / "c.toml"), daemon=daemon)).notes == ()
