"""Intel's Provisioning Certification Service, or a caching PCCS: where collateral is, and what the answers must be.

Pure: paths, headers and bytes; fetching and believing is agent.collateral's business.
Source: Intel SGX and TDX Provisioning Certification Service API, version 4 (Get TDX TCB Info, Get TD QE Identity,
Get Revocation List; issuer chains come URL-encoded in headers); Intel PCCS design guide (rootcacrl; CRLs in hex).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from agent.core.errors import ChainInvalid, FormatError, Oversized
from tdx import abi, pck
from tdx.certs import load_certificate
from tdx.chain import split_pem

BASE = "https://api.trustedservices.intel.com"
ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""Where Intel itself serves the root's CRL; a PCCS has it under ROOT_CRL_PATH."""
ROOT_CRL_PATH = "/sgx/certification/v4/rootcacrl"
MAX_ANSWER = 1 << 20
MAX_CHAIN = 16 * 1024
"""Bytes of an issuer chain's header."""

TCB_CHAIN = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
"""Headers, lower case, that carry the chain of the TCB info's signer; the second name is that of version 3."""
QE_CHAIN = ("sgx-enclave-identity-issuer-chain",)
CRL_CHAIN = ("sgx-pck-crl-issuer-chain",)

_HEX = re.compile(rb"[0-9A-Fa-f]+")
_PEM_CRL = re.compile(rb"\s*-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----\s*")


class Update(StrEnum):
    """Which of Intel's statements: ``early`` is in force when a TCB recovery is published, ``standard`` later."""

    STANDARD = "standard"
    EARLY = "early"


class Authority(StrEnum):
    """Which authority issued a PCK. The value is the service's ``ca``."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


_AUTHORITIES = {
    "Intel SGX PCK Platform CA": Authority.PLATFORM,
    "Intel SGX PCK Processor CA": Authority.PROCESSOR,
}


@dataclass(frozen=True, slots=True)
class Target:
    """What to ask for: ``fmspc`` has 6 bytes, ``pceid`` 2."""

    fmspc: bytes
    pceid: bytes
    ca: Authority


def target(quote: bytes) -> Target:
    """For whom a quote's collateral must be, as its PCK certificate says; nothing of it is verified.

    Raises FormatError for what is no quote, ChainInvalid where no certificate in it says so.
    """
    return _target(abi.parse(quote).certificates)


@lru_cache(64)
def _target(certificates: bytes) -> Target:
    """A platform's quotes all have the same. At most 64 of abi's longest are kept."""
    for der in split_pem(certificates):
        certificate = load_certificate(der, "certificate in the quote")
        if pck.SGX_EXTENSION in certificate.extensions:
            platform = pck.parse_extension(certificate.extensions[pck.SGX_EXTENSION].value)
            return Target(platform.fmspc, platform.pceid, authority(certificate.issuer))
    raise ChainInvalid("the quote has no PCK certificate: it does not say which platform it is from")


def authority(name: bytes) -> Authority:
    """Which of Intel's PCK authorities this Name (DER) is. Raises ChainInvalid."""
    for text, found in _AUTHORITIES.items():
        if text.encode() in name:
            return found
    raise ChainInvalid("the PCK certificate was issued by no authority of Intel's that is known here")


def tcb_info_path(fmspc: bytes, update: Update = Update.STANDARD) -> str:
    """Path and query of the TDX TCB info (JSON) of a platform family."""
    return f"/tdx/certification/v4/tcb?fmspc={fmspc.hex().upper()}&update={update}"


def qe_identity_path(update: Update = Update.STANDARD) -> str:
    """Path and query of the TD quoting enclave's identity (JSON)."""
    return f"/tdx/certification/v4/qe/identity?update={update}"


def pck_crl_path(ca: Authority) -> str:
    """Path and query of the CRL (DER) of a PCK authority."""
    return f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"


def issuer_chain(headers: Mapping[str, str], names: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Issuer and root (DER) from the first of the headers ``names`` that is there. Raises FormatError, Oversized."""
    text = next((headers[name] for name in names if name in headers), "")
    if len(text) > MAX_CHAIN:
        raise Oversized(f"{names[0]} has {len(text)} characters, {MAX_CHAIN} are allowed", record=names[0])
    pem = unquote_to_bytes(text).replace(b"\r\n", b"\n")
    try:
        ders = split_pem(pem)
    except ChainInvalid as error:
        raise FormatError(f"{names[0]}: {error.message}", record=names[0]) from error
    if len(ders) != 2:
        raise FormatError(f"{names[0]} has {len(ders)} certificates, issuer and root are expected", record=names[0])
    return ders[0], ders[1]


def crl_der(body: bytes) -> bytes:
    """A CRL as served: DER (Intel), hex of it (PCCS) or PEM; its inside is not read. Raises FormatError, Oversized."""
    if len(body) > MAX_ANSWER:
        raise Oversized(f"CRL has {len(body)} bytes, {MAX_ANSWER} are allowed", record="CRL")
    digits = body.strip()
    if len(digits) % 2 == 0 and _HEX.fullmatch(digits):  # first: hex of DER begins with the byte that DER begins with
        return bytes.fromhex(digits.decode("ascii"))
    if body[:1] == b"\x30":
        return body
    if match := _PEM_CRL.fullmatch(body):
        try:
            return base64.b64decode(b"".join(match[1].split()), validate=True)
        except binascii.Error as error:
            raise FormatError("the CRL is not PEM", record="CRL") from error
    raise FormatError("the answer is no CRL: neither DER nor hex nor PEM", record="CRL", got=body[:16].hex())
