"""Access policies that are refused: each message names the file, the rule and the key, and nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.access import Rules
from agent.core.accessparse import MAX_RULES
from agent.core.errors import ConfigError

GOOD = """[[rule]]
name = "web"
effect = "allow"
who = {unit = "web.service"}
operations = ["sign"]
"""


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Rules.parse({"/etc/p/10.toml": text})
    assert caught.value.exit_status == 78
    assert caught.value.message.startswith("/etc/p/10.toml")
    return caught.value


def test_the_pattern_is_good() -> None:
    assert [rule.name for rule in Rules.parse({"10.toml": GOOD}).rules] == ["web"]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("rule = 3", "rule", "array of tables"),
        ("rule = [3]", "rule[0]", "a table"),
        ("[rules]", "rules", "unknown key"),
        (changed('name = "web"\n', ""), "rule[0].name", "required"),
        (changed('"web"', '""'), "rule[0].name", "letters"),
        (changed('"web"', '"default"'), "rule[0].name", "no rule does"),
        (changed('effect = "allow"\n', ""), "rule web.effect", "required"),
        (changed('"allow"', '"permit"'), "rule web.effect", "one of allow, deny"),
        (changed('who = {unit = "web.service"}\n', ""), "rule web.who", "required"),
        (changed('{unit = "web.service"}', "{}"), "rule web.who", "names nobody"),
        (changed('{unit = "web.service"}', '"root"'), "rule web.who", "a table"),
        (changed("unit =", "path ="), "rule web.who.path", "unknown key"),
        (changed('"web.service"', "[]"), "rule web.who.unit", "1 to 256 entries"),
        (changed('"web.service"', "[1]"), "rule web.who.unit[0]", "a string"),
        (changed('"web.service"', '["a.service", "a.service"]'), "rule web.who.unit", "twice"),
        (changed('"web.service"', '"web"'), "rule web.who.unit", "whole name"),
        (changed('"web.service"', '"web@*.service"'), "rule web.who.unit", "whole name"),
        (changed('"web.service"', '"user.slice"'), "rule web.who.unit", "whole name"),
        (changed('unit = "web.service"', "user = 1000"), "rule web.who.user", "an array"),
        (changed('unit = "web.service"', 'user = "*"'), "rule web.who.user", "name"),
        (changed('unit = "web.service"', 'container = "abcdef012345"'), "rule web.who.container", "whole id"),
        (changed('operations = ["sign"]\n', ""), "rule web.operations", "required"),
        (changed('["sign"]', "[]"), "rule web.operations", "1 to"),
        (changed('["sign"]', '["quote"]'), "rule web.operations[0]", "one of"),
        (changed('["sign"]', '["si*"]'), "rule web.operations[0]", "one of"),
        (GOOD + "keys = []", "rule web.keys", "1 to"),
        (GOOD + 'keys = "web"', "rule web.keys", "NAMESPACE/NAME"),
        (GOOD + 'keys = "*/web"', "rule web.keys", "NAMESPACE/NAME"),
        (GOOD + 'keys = "pay*"', "rule web.keys", "NAMESPACE/NAME"),
        (GOOD + 'keys = "pay/*x"', "rule web.keys", "NAMESPACE/NAME"),
        (GOOD + 'keys = "pay/a/b"', "rule web.keys", "NAMESPACE/NAME"),
        (GOOD + 'uses = "internal"', "rule web.uses", "one of"),
        (GOOD + 'formats = "pgp"', "rule web.formats", "one of"),
        (GOOD + 'contexts = "a*b"', "rule web.contexts", "at its end"),
        (GOOD + 'audiences = "**"', "rule web.audiences", "at its end"),
        (GOOD + 'contexts = "a\\nb"', "rule web.contexts", "printable"),
        (GOOD + 'namespace = "uid-0"', "rule web.namespace", "user's own"),
        (GOOD + 'namespace = "a/b"', "rule web.namespace", "letters"),
        (changed('"allow"', '"deny"') + 'namespace = "pay"', "rule web.namespace", "denies"),
        (GOOD + 'executable = "/usr/bin/web"', "rule web.executable", "unknown key"),
        (changed('"sign"', '"sign", "status"') + 'keys = "*"', "rule web.keys", "nothing about status"),
        (
            changed('"sign"', '"*"') + 'uses = "jws"',
            "rule web.uses",
            "nothing about status, keys.list, challenge, verify, metrics, seal, unseal, secret",
        ),
        (changed('"sign"', '"keys.*"') + 'contexts = "x"', "rule web.contexts", "nothing about keys.list"),
        (changed('["sign"]', '"secret"'), "rule web.secrets", "required"),
        (changed('["sign"]', '["seal", "secret"]'), "rule web.secrets", "required"),
        (changed('["sign"]', '["seal", "secret"]') + 'secrets = "*"', "rule web.secrets", "nothing about seal"),
        (changed('["sign"]', '"secret"') + "secrets = []", "rule web.secrets", "1 to"),
        (changed('["sign"]', '"secret"') + 'secrets = "*x"', "rule web.secrets", "BEGINNING*"),
        (changed('["sign"]', '"secret"') + 'secrets = "a/b"', "rule web.secrets", "BEGINNING*"),
        (changed('["sign"]', '"secret"') + 'secrets = ""', "rule web.secrets", "BEGINNING*"),
        (GOOD + 'secrets = "x"', "rule web.secrets", "nothing about sign"),
        (GOOD + "persistent = true", "rule web.persistent", "nothing about sign"),
        (changed('["sign"]', '"keys.*"') + "persistent = true", "rule web.persistent", "nothing about keys.list"),
        (changed('["sign"]', '"keys.create"') + 'persistent = "true"', "rule web.persistent", "boolean"),
        (changed('["sign"]', '"keys.create"') + "persistent = [true]", "rule web.persistent", "boolean"),
        (changed('["sign"]', '"keys.create"') + "persistent = 1", "rule web.persistent", "boolean"),
        (GOOD + GOOD, "rule web.name", "already"),
    ],
)
def test_refused(text: str, place: str, problem: str) -> None:
    error = refused(text)
    assert error.message.startswith(f"/etc/p/10.toml: {place}: ")
    assert problem in error.message


def test_not_toml() -> None:
    assert refused("[[rule]").code == "config.syntax"
    assert refused("a = 1" + "0" * 5000).code == "config.syntax"


def test_a_name_twice_in_two_files_names_both() -> None:
    with pytest.raises(ConfigError, match=r"^b\.toml: rule web\.name: .* already, in a\.toml"):
        Rules.parse({"b.toml": GOOD, "a.toml": GOOD})


def test_an_unknown_account_is_a_note_where_it_lets_in_and_an_error_where_it_denies() -> None:
    named = changed('unit = "web.service"', 'user = ["mallory", "1000"], group = "crew"')
    found = Rules.parse({"10.toml": named})
    assert [(rule.users, rule.groups) for rule in found.rules] == [(frozenset({1000}), frozenset())]
    assert found.notes == (
        "10.toml: rule web names user mallory, which this machine does not know",
        "10.toml: rule web names group crew, which this machine does not know",
    )
    error = refused(named.replace('"allow"', '"deny"'))
    assert error.message.startswith("/etc/p/10.toml: rule web.who.user: denies mallory")


def test_rules_are_counted() -> None:
    many = "".join(GOOD.replace('"web"', f'"r{index}"') for index in range(MAX_RULES))
    assert len(Rules.parse({"10.toml": many}).rules) == MAX_RULES
    assert "one rule more" in refused(many + GOOD).message


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, len(GOOD)), st.integers(0, 40))
def test_any_text_is_a_policy_or_a_configuration_error(junk: str, start: int, length: int) -> None:
    try:
        found = Rules.parse({"10.toml": GOOD[:start] + junk + GOOD[start + length :]})
    except ConfigError as error:
        assert error.message.startswith("10.toml")
    else:
        assert len(found.rules) <= 1
