"""The `[endorsements]` table: off by default, and whom it may name."""

from __future__ import annotations

import pytest

from agent.collateral.fetch import Services
from agent.core.config import Config, parse
from agent.core.errors import ConfigError
from agent.core.vendorconfig import EndorsementsConfig
from snp import kds
from tdx import pcs


def table(text: str) -> Config:
    return parse(f"[endorsements]\n{text}\n", "test.toml")


def test_nothing_is_fetched_unless_told() -> None:
    assert parse("", "test.toml").endorsements == EndorsementsConfig()
    assert EndorsementsConfig().fetch is False
    assert table("fetch = true").endorsements.fetch is True


def test_the_vendors_own_addresses_are_the_default() -> None:
    services = Services.of(EndorsementsConfig())
    assert (services.kds_url, services.pcs_url, services.root_crl) == (kds.BASE, pcs.BASE, pcs.ROOT_CRL)


def test_a_pccs_serves_the_root_s_crl_itself() -> None:
    config = table('pcs_url = "https://pccs.example.org:8081/"').endorsements
    assert Services.of(config).root_crl == "https://pccs.example.org:8081/sgx/certification/v4/rootcacrl"


@pytest.mark.parametrize("good", ["http://proxy:3128", "https://proxy.example.org:443", "http://192.0.2.1:80/", ""])
def test_proxies(good: str) -> None:
    assert table(f'proxy = "{good}"').endorsements.proxy == good.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        'proxy = "proxy:3128"',
        'proxy = "http://proxy"',
        'proxy = "http://me:secret@proxy:1"',
        'proxy = "http://proxy:1/path"',
        'proxy = "http://proxy:1?x"',
        'proxy = "http://proxy:99999"',
        'proxy = "socks5://proxy:1"',
        'kds_url = "http://kds.example.org"',
        'pcs_url = "https://pcs.example.org/?x"',
        'ca_file = "relative.pem"',
        "seconds = 0",
        "keep_days = 1",
        'fetch = "yes"',
        "trust_root = 1",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table(text)
    assert text.split(" ", maxsplit=1)[0] in caught.value.message
    assert "secret" not in caught.value.message
