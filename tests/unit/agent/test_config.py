"""Configuration: everything that must be accepted, and one clear refusal (exit 78) for everything else."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from agent.core import config
from agent.core.auditconfig import AuditConfig
from agent.core.config import Config, Pin, parse
from agent.core.daemonconfig import DaemonConfig
from agent.core.errors import ConfigError
from agent.core.measuredconfig import MeasuredConfig
from agent.core.sealconfig import SealingConfig, SecretConfig
from agent.core.vendorconfig import EndorsementsConfig
from agent.settings import load, read_bounded

HEX = "ab" * 32
TAS = f"""
[tas]
url = "https://tas.example:8443/prefix/"
pins = ["spki:sha256:{HEX}"]
api_key_file = "/etc/tee-agent/api-key"
"""
VOLUME = """
[[volume]]
name = "root"
device = "UUID=0a1b2c3d-0000-1111-2222-333344445555"
policy_ids = ["disk-a", "disk-b"]
"""


def refuse(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "tee-agent.toml")
    assert caught.value.exit_status == 78
    assert caught.value.message.startswith("tee-agent.toml: ")
    return caught.value


def test_empty_is_all_defaults() -> None:
    assert parse("", "f") == Config("f")


def test_whole_tree() -> None:
    got = parse(
        TAS
        + 'ca_file = "/ca.pem"\nsecret_field = "key-id"\ndeadline_seconds = 90\n'.replace("ca_file", "#ca_file")
        + VOLUME
        + 'fallback = "halt"\n[evidence]\ntsm_root = "/t"\nquote_seconds = 2.5\n[daemon]\naudience = "web"\n'
        + 'allow_groups = ["app", "1000"]\nallow_users = []\n',
        "f",
    )
    assert got.tas is not None
    assert (got.tas.url, got.tas.secret_field, got.tas.deadline_seconds) == (
        "https://tas.example:8443/prefix",
        "key-id",
        90.0,
    )
    assert got.tas.pins == (Pin("spki", bytes.fromhex(HEX)),)
    assert got.evidence.tsm_root == Path("/t")
    assert got.evidence.quote_seconds == 2.5
    assert got.daemon.allow_groups == ("app", "1000")
    [volume] = got.volumes
    assert (volume.name, volume.policy_ids, volume.fallback) == ("root", ("disk-a", "disk-b"), "halt")


def test_pin_text_round_trip() -> None:
    text = f"ca:sha256:{HEX}"
    got = parse(TAS.replace(f"spki:sha256:{HEX}", text) + 'ca_file = "/ca.pem"', "f")
    assert got.tas is not None
    assert [str(pin) for pin in got.tas.pins] == [text]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_plain_http_to_this_machine(host: str) -> None:
    got = parse(f'[tas]\nurl = "http://{host}:5000"\napi_key_file = "/k"', "f")
    assert got.tas is not None
    assert got.tas.pins == ()


@pytest.mark.parametrize(
    "host", ["tas.example", "192.0.2.1", "[2001:db8::1]", "localhost.example", "127.0.0.1.example"]
)
def test_plain_http_to_another_machine(host: str) -> None:
    error = refuse(f'[tas]\nurl = "http://{host}:5000"\napi_key_file = "/k"')
    assert error.code == "config.unsafe"
    assert "tas.url: plain http is allowed to this machine only" in error.message


@pytest.mark.parametrize("pins", ["", "pins = []\n"])
def test_https_without_pins(pins: str) -> None:
    error = refuse(f'[tas]\nurl = "https://a"\napi_key_file = "/k"\n{pins}')
    assert (error.code, error.message) == (
        "config.unsafe",
        "tee-agent.toml: tas.pins: an https service needs at least one pin",
    )
    assert "spki:sha256:" in error.hint


def test_pins_over_plain_http_would_mean_nothing() -> None:
    assert "tas.pins" in refuse(TAS.replace("https://tas.example:8443/prefix/", "http://127.0.0.1")).message


def test_ca_pin_and_ca_file_go_together() -> None:
    assert refuse(TAS.replace("spki:", "ca:")).message == "tee-agent.toml: tas.ca_file: is required by a ca: pin"
    assert "tas.ca_file: is not used" in refuse(TAS + 'ca_file = "/ca.pem"').message


@pytest.mark.parametrize(
    ("text", "place", "hint"),
    [
        ("tsa = 1", "tsa: unknown key", "did you mean tas?"),
        (TAS + "pin = 1", "tas.pin: unknown key", "did you mean pins?"),
        ("[daemon]\nzzz = 1", "daemon.zzz: unknown key", "known here: runtime_dir"),
        (VOLUME + "policy = 1", "volume[0].policy: unknown key", "policy_ids"),
        ("[evidence]\ninsecure = true", "evidence.insecure: unknown key", "known here"),
    ],
)
def test_unknown_keys(text: str, place: str, hint: str) -> None:
    error = refuse(text)
    assert error.code == "config.unknown-key"
    assert place in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tas = 1", "tas: must be a table, not an integer"),
        ("volume = {}", "volume: must be an array of tables ([[volume]]), not a table"),
        ("volume = [1]", "volume[0]: must be a table, not an integer"),
        ("[tas]\nurl = 1\napi_key_file='/k'", "tas.url: must be a string, not an integer"),
        (TAS.replace(f'["spki:sha256:{HEX}"]', '"x"'), "tas.pins: must be an array, not a string"),
        (TAS.replace(f'"spki:sha256:{HEX}"', "1"), "tas.pins[0]: must be a string, not an integer"),
        (TAS + "deadline_seconds = '60'", "tas.deadline_seconds: must be a number of seconds, not a string"),
        (TAS + "deadline_seconds = true", "tas.deadline_seconds: must be a number of seconds, not a boolean"),
        (TAS + "attempts = 1.0", "tas.attempts: must be an integer, not a number"),
        (TAS + "attempts = true", "tas.attempts: must be an integer, not a boolean"),
        ("[daemon]\naudience = 2020-01-01", "daemon.audience: must be a string, not date"),
    ],
)
def test_wrong_types(text: str, message: str) -> None:
    error = refuse(text)
    assert (error.code, error.message) == ("config.type", f"tee-agent.toml: {message}")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[tas]\nurl='https://a'", "tas.api_key_file: is required"),
        (VOLUME.replace('name = "root"', ""), "volume[0].name: is required"),
        (VOLUME.replace("root", "../root"), "volume[0].name: must be 1 to 64 letters"),
        (VOLUME.replace("root", "-root"), "volume[0].name"),
        (VOLUME.replace("root", ""), "volume[0].name"),
        (VOLUME.replace("UUID=0a1b2c3d-", "UUID="), "volume[0].device: must be an absolute path or UUID"),
        (VOLUME.replace("UUID=0a1b2c3d-", "LABEL="), "volume[0].device"),
        (VOLUME.replace('"disk-a", "disk-b"', ""), "volume[0].policy_ids: must have 1 to 2 entries"),
        (VOLUME.replace('"disk-a"', '"a","b"'), "volume[0].policy_ids: must have 1 to 2 entries"),
        (VOLUME.replace("disk-b", "disk-a"), "volume[0].policy_ids: has an entry twice"),
        (VOLUME.replace("disk-b", "disk b"), "volume[0].policy_ids[1]: must be 1 to 128 letters"),
        (VOLUME + "fallback = 'shell'", "volume[0].fallback: must be one of prompt, halt, not 'shell'"),
        (VOLUME + VOLUME.replace("0a1b", "ffff"), "volume[1].name: root is named twice"),
        (VOLUME + VOLUME.replace("root", "data"), "volume[1].device: UUID=0a1b2c3d"),
        (TAS.replace("spki:sha256", "spki:sha1"), "tas.pins[0]: must be spki:sha256:<64 hex>"),
        (TAS.replace(HEX, HEX[2:]), "tas.pins[0]: must be spki:sha256:<64 hex>"),
        (TAS.replace("https://", "ftp://"), "tas.url: must be https://HOST"),
        (TAS.replace("https://", "https:"), "tas.url: must be https://HOST"),
        (TAS.replace("https://", "https://user:pw@"), "tas.url: must have no user"),
        (TAS.replace("/prefix/", "/?q"), "tas.url: must have no user, password, query"),
        (TAS.replace("/prefix/", "/#f"), "tas.url: must have no user, password, query"),
        (TAS.replace("/prefix/", "/a b"), "tas.url: has a path with unusual"),
        (TAS.replace("8443", "99999"), "tas.url: is no URL"),
        (TAS.replace("tas.example", "[::1"), "tas.url: is no URL"),
        (TAS.replace("tas.example", "tas_\\u00fc"), "tas.url: must be https://HOST"),
        (TAS.replace("tas.example", "a\\nb"), "tas.url: must be printable"),
        (TAS.replace("/etc/tee-agent/api-key", "api-key"), "tas.api_key_file: must be an absolute path"),
        (TAS.replace("/etc/tee-agent/api-key", "/a\\u0000b"), "tas.api_key_file: must be printable"),
        (TAS + "secret_field = 'key'", "tas.secret_field: must be one of policy-id, key-id"),
        (TAS + "deadline_seconds = 0", "tas.deadline_seconds: must be 1 to 3600 seconds, not 0"),
        (TAS + "deadline_seconds = nan", "tas.deadline_seconds: must be 1 to 3600 seconds, not nan"),
        (TAS + "deadline_seconds = inf", "tas.deadline_seconds: must be 1 to 3600 seconds, not inf"),
        (TAS + "attempts = 101", "tas.attempts: must be 1 to 100, not 101"),
        (TAS + "attempts = 0", "tas.attempts: must be 1 to 100, not 0"),
        ("[daemon]\nallow_users = ['Root!']", "daemon.allow_users[0]: must be a user or group name"),
        ("[daemon]\nkey_lifetime_seconds = 90000", "daemon.key_lifetime_seconds: must be 60 to 86400"),
        ("[daemon]\nruntime_dir = ''", "daemon.runtime_dir: must be an absolute path"),
        ("[audit]\nfolder = 'log'", "audit.folder: must be an absolute path"),
        ("[audit]\nmax_bytes = 1", "audit.max_bytes: must be 65536 to"),
        ("[", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
        ("a = " + "[" * 9999, "not valid TOML"),
    ],
)
def test_bad_values(text: str, place: str) -> None:
    assert place in refuse(text).message


def test_every_key_is_a_field_and_every_field_a_key() -> None:
    trees = {
        "tas": config.TasConfig,
        "evidence": config.EvidenceConfig,
        "endorsements": EndorsementsConfig,
        "measured": MeasuredConfig,
        "volume": config.VolumeConfig,
        "boot": config.BootConfig,
        "sealing": SealingConfig,
        "secrets": SecretConfig,
        "daemon": DaemonConfig,
        "audit": AuditConfig,
    }
    assert trees.keys() == config.SECTIONS.keys()
    for name, keys in config.SECTIONS.items():
        # A secret's name stands in the heading of its table.
        fields = [each for each in dataclasses.fields(trees[name]) if (name, each.name) != ("secrets", "name")]
        assert set(keys) == {field.name for field in fields}
        without = {field.name for field in fields if field.default is dataclasses.MISSING}
        assert {key for key, value in keys.items() if value.required} == without - {"pins"}
        assert all(value.help for value in keys.values())


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "tee-agent.toml"
    path.write_text(TAS)
    assert load(path).source == str(path)


def unreadable(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in caught.value.message
    return caught.value


def test_load_refuses(tmp_path: Path) -> None:
    path = tmp_path / "tee-agent.toml"
    assert "No such file" in unreadable(path).message
    path.write_bytes(b"\xff")
    assert unreadable(path).code == "config.syntax"
    path.write_bytes(b"#" * (config.MAX_BYTES + 1))
    assert unreadable(path).code == "config.too-large"
    path.write_bytes(b"")
    path.chmod(0o646)
    assert unreadable(path).code == "config.unsafe"
    assert "not a regular file" in unreadable(tmp_path).message
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "not a regular file" in unreadable(fifo).message


def test_read_bounded_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(ConfigError):
        read_bounded(path, 4)
