"""What setup makes of words: refusals that name the option, and older settings that stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.admin import plan
from agent.admin.plan import Change
from agent.core.config import Config, Pin, TasConfig, VolumeConfig, parse
from agent.core.errors import ConfigError, TeeAgentError, UsageError

SPKI = "spki:sha256:" + "ab" * 32
TAS = TasConfig("https://tas.example", (Pin("spki", b"\xab" * 32),), Path("/etc/tee-agent/tas-api-key"))
OLD = VolumeConfig("data", "/dev/vdb", ("a", "b"), "halt", initramfs=False)


@pytest.mark.parametrize("given", ["http://tas.example", "https://user@tas.example", "tas.example", "https://t/?q"])
def test_url_is_refused_by_its_option_s_name(given: str) -> None:
    with pytest.raises(ConfigError, match=r"--url: "):
        plan.url(given)


def test_pins_are_parsed_and_a_bad_one_named() -> None:
    assert plan.pins([SPKI]) == TAS.pins
    assert plan.pins([]) == ()
    for bad in (["sha256:00"], [SPKI, SPKI]):
        with pytest.raises(ConfigError, match=r"--pin"):
            plan.pins(bad)


def test_volume_from_words() -> None:
    assert plan.volume("root=UUID=x", ["a"], {}) == VolumeConfig("root", "UUID=x", ("a",))
    # What setup has no option for stays; policies stay unless named anew.
    assert plan.volume("data=/dev/vdc", [], {"data": OLD}) == replace(OLD, device="/dev/vdc")
    assert plan.volume("data=/dev/vdc", ["c"], {"data": OLD}).policy_ids == ("c",)


@pytest.mark.parametrize("given", ["root", "=dev", "root=", ""])
def test_no_volume(given: str) -> None:
    with pytest.raises(UsageError, match="NAME=DEVICE"):
        plan.volume(given, ["a"], {})


def test_a_new_volume_needs_a_policy() -> None:
    with pytest.raises(UsageError, match="needs a policy"):
        plan.volume("root=/dev/vda3", [], {"data": OLD})


def test_merging_keeps_what_setup_does_not_set() -> None:
    old = parse('[daemon]\naudience = "x"\n[boot]\nstop = "reboot"\n', "f")
    old = replace(old, tas=replace(TAS, url="https://old", deadline_seconds=5.0), volumes=(OLD,))
    new = VolumeConfig("root", "/dev/vda3", ("a",))
    found = plan.merged(old, TAS, [new, replace(OLD, device="/dev/vdz")], "g")
    assert found.source == "g"
    assert (found.daemon, found.boot) == (old.daemon, old.boot)
    assert found.tas == replace(TAS, deadline_seconds=5.0)
    assert found.volumes == (replace(OLD, device="/dev/vdz"), new)


def test_text_is_what_the_parser_takes_and_means() -> None:
    config = plan.merged(None, TAS, [OLD], "f")
    assert parse(plan.text(config), "f") == config


@pytest.mark.parametrize(
    "volume",
    [
        VolumeConfig("../x", "/dev/vda", ("a",)),
        VolumeConfig("x", "vda", ("a",)),
        VolumeConfig("x", "/dev/vda", ("a", "b", "c")),
        VolumeConfig("x", "/dev/vda", ("a b",)),
    ],
)
def test_what_the_parser_refuses_is_refused_before_it_is_written(volume: VolumeConfig) -> None:
    with pytest.raises(ConfigError):
        plan.text(plan.merged(None, TAS, [volume], "f"))


def test_https_without_a_pin_is_never_written() -> None:
    with pytest.raises(TeeAgentError):
        plan.text(plan.merged(None, replace(TAS, pins=()), [], "f"))


def test_difference_names_both_sides() -> None:
    change = Change(Path("/f"), 0o644, b"a\nc\n", b"a\nb\n")
    assert (change.is_new, change.needed) == (False, True)
    assert plan.difference(change) == "--- /f (there)\n+++ /f (new)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"
    assert not Change(Path("/f"), 0o644, b"a", b"a").needed
    assert Change(Path("/f"), 0o644, b"").needed


def test_nothing_set_up_is_a_configuration() -> None:
    assert plan.merged(None, TAS, [], "f") == Config("f", TAS)
