"""The tables [sealing] and [secrets.NAME]: what they take, and that no policy id serves two purposes."""

from __future__ import annotations

import pytest

from agent.core.config import parse
from agent.core.configtext import render
from agent.core.errors import ConfigError
from agent.core.sealconfig import MAX_SECRETS, SealingConfig, SecretConfig, releases

TAS = """
[tas]
url = "http://127.0.0.1:1"
api_key_file = "/k"
"""
VOLUMES = """
[[volume]]
name = "root"
device = "/dev/vda"
policy_ids = ["disk-a", "disk-b"]
"""
SEALING = '[sealing]\nroot = "tas"\npolicy_id = "sealing-1"\n'
SECRETS = '[secrets.db]\npolicy_id = "db-1"\n[secrets."api.v2"]\npolicy_id = "api-1"\n'


def refuse(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert caught.value.exit_status == 78
    return caught.value


def test_nothing_is_released_by_default() -> None:
    config = parse(TAS, "f")
    assert (config.sealing, config.secrets) == (SealingConfig("none", None), ())
    assert releases(config.sealing, config.secrets) == {}


def test_whole_tables() -> None:
    config = parse(TAS + VOLUMES + SEALING + SECRETS, "f")
    assert config.sealing == SealingConfig("tas", "sealing-1")
    assert config.secrets == (SecretConfig("db", "db-1"), SecretConfig("api.v2", "api-1"))
    found = releases(config.sealing, config.secrets)
    assert found == {"sealing": "sealing-1", "db": "db-1", "api.v2": "api-1"}


@pytest.mark.parametrize("defaults", [True, False])
def test_as_text_and_back(*, defaults: bool) -> None:
    for text in (SEALING + SECRETS, '[sealing]\nroot = "snp-derived"\n'):
        config = parse(TAS + text, "f")
        assert parse(render(config, defaults=defaults), "f") == config


def test_a_derived_root_needs_no_service() -> None:
    assert parse('[sealing]\nroot = "snp-derived"\n', "f").sealing.root == "snp-derived"


@pytest.mark.parametrize(
    ("text", "place", "taken"),
    [
        (SEALING.replace("sealing-1", "disk-a"), "sealing.policy_id", "volume root"),
        (SEALING.replace("sealing-1", "disk-b"), "sealing.policy_id", "volume root"),
        (SECRETS.replace("db-1", "disk-b"), "secrets.db.policy_id", "volume root"),
        (SEALING + SECRETS.replace("db-1", "sealing-1"), "secrets.db.policy_id", "[sealing]"),
        (SECRETS.replace("api-1", "db-1"), "secrets.api.v2.policy_id", "[secrets.db]"),
    ],
)
def test_a_policy_id_has_one_purpose(text: str, place: str, taken: str) -> None:
    error = refuse(TAS + VOLUMES + text)
    assert error.code == "config.policy-id"
    assert error.message.startswith(f"f: {place}: ")
    assert f"of {taken} already" in error.message
    # In whatever order the file has them.
    assert refuse(text + TAS + VOLUMES).code == "config.policy-id"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        (SEALING.replace('policy_id = "sealing-1"\n', ""), "sealing.policy_id", "required"),
        (SEALING.replace("tas", "none"), "sealing.policy_id", "means nothing"),
        (SEALING.replace("tas", "snp-derived"), "sealing.policy_id", "means nothing"),
        ('[sealing]\nroot = "tpm"\n', "sealing.root", "one of"),
        ('[sealing]\nsecret = "x"\n', "sealing.secret", "unknown key"),
        (SEALING.replace("sealing-1", "a/b"), "sealing.policy_id", "letters"),
        ("[secrets.db]\n", "secrets.db.policy_id", "required"),
        ('[secrets.sealing]\npolicy_id = "x"\n', "secrets.sealing", "no name"),
        ('[secrets."a/b"]\npolicy_id = "x"\n', "secrets.a/b", "letters"),
        ('[secrets]\ndb = "x"\n', "secrets.db", "a table"),
        ('[[secrets]]\npolicy_id = "x"\n', "secrets", "tables"),
        ('[secrets.db]\npolicy_id = "x"\nvalue = "y"\n', "secrets.db.value", "unknown key"),
        (SEALING + '[daemon]\nsigner_user = "one"\nfetcher_user = "one"\n', "daemon.fetcher_user", "differ"),
    ],
)
def test_refused(text: str, place: str, problem: str) -> None:
    error = refuse(TAS + text)
    assert error.message.startswith(f"f: {place}: ")
    assert problem in error.message


@pytest.mark.parametrize(("text", "place"), [(SEALING, "sealing"), (SECRETS, "secrets.db")])
def test_no_service_to_release_it(text: str, place: str) -> None:
    error = refuse(text)
    assert (error.code, error.message.startswith(f"f: {place}: ")) == ("config.missing", True)


def test_secrets_are_counted() -> None:
    many = "".join(f'[secrets.s{number}]\npolicy_id = "p{number}"\n' for number in range(MAX_SECRETS))
    assert len(parse(TAS + many, "f").secrets) == MAX_SECRETS
    assert "at most 64" in refuse(TAS + many + '[secrets.more]\npolicy_id = "more"\n').message
