"""A configuration as text parses to the same tree, whatever is in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agent.core.config import Config, parse
from agent.core.configtext import HEADER, render

HEX = "ab" * 32
FULL = f"""
[tas]
url = "https://tas.example:8443/prefix"
pins = ["spki:sha256:{HEX}", "ca:sha256:{HEX}"]
ca_file = "/etc/tee-agent/tas-ca.pem"
api_key_file = "/etc/tee-agent/tas-api-key"
deadline_seconds = 7.5
secret_field = "key-id"
[evidence]
tsm_root = "/some where/\\"quoted\\"\\\\path"
[[volume]]
name = "root"
device = "UUID=0a1b2c3d-0000-1111-2222-333344445555"
policy_ids = ["disk-a", "disk-b"]
fallback = "halt"
initramfs = false
volume_key = "sha256:{HEX}"
[[volume]]
name = "data"
device = "/dev/vdb"
policy_ids = ["disk-a"]
[boot]
root_check = false
cmdline_allow = ["quiet", "root="]
[daemon]
audience = "Gäste ✓"
allow_users = ["1000"]
allow_groups = []
"""


@pytest.mark.parametrize("text", ["", FULL], ids=["empty", "full"])
@pytest.mark.parametrize("defaults", [True, False])
def test_there_and_back(text: str, *, defaults: bool) -> None:
    config = parse(text, "f")
    assert parse(render(config, defaults=defaults), "f") == config


def test_short_form_has_only_what_differs() -> None:
    assert render(Config("f"), defaults=False) == ""
    changed = dataclasses.replace(Config("f"), daemon=dataclasses.replace(Config("f").daemon, audience="x"))
    assert render(changed, defaults=False) == '[daemon]\naudience = "x"\n'


def test_long_form_marks_defaults() -> None:
    lines = render(parse(FULL, "f"), defaults=True).splitlines()
    assert "deadline_seconds = 7.5" in lines
    assert "connect_seconds = 10  # default" in lines
    assert 'fallback = "prompt"  # default' in lines
    assert [line for line in lines if line.startswith(("initramfs", "volume_key"))] == [
        "initramfs = false",
        f'volume_key = "sha256:{HEX}"',
    ]


def test_header_is_a_comment() -> None:
    assert parse(HEADER, "f") == Config("f")


def test_paths_stay_paths() -> None:
    assert parse(render(parse(FULL, "f"), defaults=True), "f").evidence.tsm_root == Path('/some where/"quoted"\\path')
