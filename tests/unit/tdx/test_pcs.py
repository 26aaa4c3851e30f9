"""Intel's service: addresses for genuine quotes, issuer chains from headers, CRLs in every form that is served."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ChainInvalid, FormatError, Oversized, TeeAgentError
from sim.keys import pem_of
from tdx import abi, pcs
from tdx.pcs import Authority, Update
from tests.support import vectors

CASES = vectors.cases("tdx")
GENUINE = [case for case in CASES if case.values[0] and "neg-" not in case.values[0].name]
WITH_COLLATERAL = [case for case in GENUINE if (case.values[0] / "collateral").is_dir()]


def test_addresses_as_the_specification_has_them() -> None:
    fmspc = bytes.fromhex("90c06f000000")
    assert pcs.tcb_info_path(fmspc) == "/tdx/certification/v4/tcb?fmspc=90C06F000000&update=standard"
    assert pcs.tcb_info_path(fmspc, Update.EARLY).endswith("&update=early")
    assert pcs.qe_identity_path(Update.EARLY) == "/tdx/certification/v4/qe/identity?update=early"
    assert pcs.pck_crl_path(Authority.PLATFORM) == "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
    assert pcs.pck_crl_path(Authority.PROCESSOR) == "/sgx/certification/v4/pckcrl?ca=processor&encoding=der"


@pytest.mark.parametrize("folder", WITH_COLLATERAL)
def test_a_genuine_quote_asks_for_the_collateral_that_came_with_it(folder: Path) -> None:
    target = pcs.target((folder / "quote.bin").read_bytes())
    info = json.loads((folder / "collateral" / "tcb_info.json").read_bytes())["tcbInfo"]
    assert (target.fmspc.hex(), target.pceid.hex()) == (info["fmspc"].lower(), info["pceId"].lower())
    assert target.ca is Authority.PLATFORM


@pytest.mark.parametrize("folder", WITH_COLLATERAL)
@pytest.mark.parametrize("name", ["tcb_info", "qe_identity", "pck_crl"])
def test_a_genuine_issuer_chain(folder: Path, name: str) -> None:
    """As PEM in a header, encoded as the service does it."""
    pem = (folder / "collateral" / f"{name}_issuer_chain.pem").read_bytes()
    issuer, root = pcs.issuer_chain({"a-chain": quote(pem)}, ("another", "a-chain"))
    assert pem.replace(b"\r\n", b"\n").strip() == (pem_of(issuer) + pem_of(root)).strip()


def test_a_swapped_chain_still_says_which_platform_it_is() -> None:
    folder = next((case.values[0] for case in CASES if case.values[0] and "swapped" in case.values[0].name), None)
    if folder is None:
        pytest.skip("no vectors")
    assert len(pcs.target(folder.joinpath("quote.bin").read_bytes()).fmspc) == 6


def test_a_quote_without_a_pck_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parsed:
        certificates = b""

    monkeypatch.setattr(abi, "parse", lambda _: Parsed)
    with pytest.raises(ChainInvalid, match="no PCK"):
        pcs.target(b"")


def test_authorities_by_name() -> None:
    for text, expected in (("Intel SGX PCK Platform CA", "platform"), ("Intel SGX PCK Processor CA", "processor")):
        assert pcs.authority(b"\x30.." + text.encode()) == expected
    with pytest.raises(ChainInvalid):
        pcs.authority(b"Intel SGX Root CA")


@pytest.mark.parametrize("text", ["", "%00", "hello", quote(pem_of(b"one")), quote(pem_of(b"1") * 3), "%2D" * 6000])
def test_headers_that_are_no_chain(text: str) -> None:
    with pytest.raises(FormatError):
        pcs.issuer_chain({"chain": text}, ("chain",))
    with pytest.raises(FormatError):
        pcs.issuer_chain({}, ("chain",))


@pytest.mark.parametrize("folder", WITH_COLLATERAL[:1])
def test_crls_as_intel_and_as_a_pccs_serve_them(folder: Path) -> None:
    der = (folder / "collateral" / "pck_crl.der").read_bytes()
    pem = pem_of(der).replace(b"CERTIFICATE", b"X509 CRL")
    for body in (der, der.hex().encode(), der.hex().upper().encode() + b"\n", pem):
        assert pcs.crl_der(body) == der


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"abc", b"-----BEGIN X509 CRL-----\nA\n-----END X509 CRL-----"]
)
def test_what_is_no_crl(body: bytes) -> None:
    with pytest.raises(FormatError):
        pcs.crl_der(body)
    with pytest.raises(Oversized):
        pcs.crl_der(bytes(pcs.MAX_ANSWER + 1))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for call in (pcs.crl_der, pcs.target, pcs.authority):
        try:
            call(data)
        except TeeAgentError:
            pass
