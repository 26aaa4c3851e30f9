"""Accept: weights, closeness of ranges, and no guessing at what is no list of media ranges."""

from __future__ import annotations

import pytest

from agent.core.errors import UsageError
from agent.daemon.accept import MAX_BYTES, MAX_RANGES, choose

WHOLE, SHORT = "application/vnd.tee-agent.bundle+json", "application/vnd.tee-agent.compact+json"
BOTH = (WHOLE, SHORT)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ",",
        "*/*",
        "application/*",
        WHOLE,
        WHOLE.upper(),
        f"{WHOLE}, {SHORT}",
        f"{SHORT}, {WHOLE}",
        f"{SHORT};q=0.999, */*",
        f"{SHORT};q=0, */*;q=0.001",
        f"text/html, {WHOLE};q=0.1",
        "application/json",
        f"application/json;q=0.1, {SHORT};q=0",
        f"application/json;q=0.2, application/*;q=0.9, {SHORT};q=0.1",
        f"{SHORT};level=1, */*;q=0.1",
        f"text/html;level=1, {WHOLE} ;\tq=0.5",
    ],
)
def test_the_whole_bundle_is_given(header: str) -> None:
    assert choose(header, BOTH) == WHOLE


@pytest.mark.parametrize(
    "header",
    [
        SHORT,
        SHORT.title(),
        f"{SHORT}, */*;q=0.1",
        f"{WHOLE};q=0.5, {SHORT}",
        f"{WHOLE};q=0, */*",
        f"*/*, {WHOLE};q=0.0",
        f"application/*;q=0.2, {SHORT};q=0.3",
        f"text/*, {SHORT};Q=1.000",
        f"{SHORT};q=0.5;ext=1;q=0, {WHOLE};q=0.4",
        f'{SHORT};q=0.5;ext="a,b" ,, {WHOLE};q=0.4',
        f", {SHORT} ,",
        f"{WHOLE};q=0,{SHORT};q=0.001",
    ],
)
def test_the_compact_one_is_given(header: str) -> None:
    assert choose(header, BOTH) == SHORT


@pytest.mark.parametrize(
    "header",
    [
        "text/html",
        "*/*;q=0",
        f"{WHOLE};q=0, {SHORT};q=0.0",
        f"{SHORT};version=2",
        "text/*",
        "application/jose",
        "text/json",
    ],
)
def test_nothing_acceptable_is_said(header: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(header, BOTH)
    assert caught.value.code == "usage.accept"
    assert WHOLE in caught.value.message


@pytest.mark.parametrize(
    "header",
    [
        "x",
        "*",
        "*/json",
        "a/",
        "/a",
        "a/b c/d",
        "a/b;q",
        "a/b;q=",
        "a/b;q=1.001",
        "a/b;q=2",
        "a/b;q=.5",
        "a/b;q=0.0001",
        "a/b;q=-1",
        "a/b;q=nan",
        'a/b;x="y',
        'a/b;x="\\""',
        "a/b;",
        "a/b;;q=1",
        "a/b, c",
        "a\x00/b",
        "\u00e4/b",
        "a/b," * (MAX_RANGES + 1),
        "a/b," + "x" * MAX_BYTES + "/y",
    ],
)
def test_what_is_no_list_of_ranges_is_an_error(header: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(header, BOTH)
    assert caught.value.code == "usage"
    assert caught.value.message.isprintable()


def test_the_closest_range_decides_whatever_its_place() -> None:
    for header in (f"{WHOLE};q=0.1, application/*;q=0.9", f"application/*;q=0.9, {WHOLE};q=0.1"):
        assert choose(header, BOTH) == SHORT
    for header in ("application/*;q=0.1, */*;q=0.9", "*/*;q=0.9, application/*;q=0.1"):
        assert choose(header, ("application/a", "text/b")) == "text/b"


def test_parameters_are_the_media_types_own() -> None:
    offered = ('application/cose; cose-type="cose-sign1"'.replace('"', ""), "application/other")
    assert choose('application/cose;cose-type="cose-sign1", */*;q=0.1', offered) == offered[0]
    assert choose("application/cose;cose-type=cose-mac, */*;q=0.1", offered[1:]) == offered[1]


def test_json_is_not_what_has_another_suffix() -> None:
    for offered in ("application/jose", "application/eat+jwt", "text/x+json"):
        with pytest.raises(UsageError):
            choose("application/json", (offered,))


def test_most_ranges_that_are_read() -> None:
    assert choose(",".join(["a/b"] * (MAX_RANGES - 1) + ["*/*"]), BOTH) == WHOLE
