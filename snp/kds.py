"""AMD's Key Distribution Service: where the certificates and the CRL for a report are, and what its answers must be.

Pure: paths and bytes; who fetches them, how often and what is believed is agent.collateral's business.
Source: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification, section 4 (the
paths of VCEK, VLEK, cert_chain and crl; Turin's parameters are in revision 1.00).
"""

from __future__ import annotations

import base64
import binascii
import re

from agent.core.errors import FormatError, Oversized
from snp.abi import Report
from snp.words import Product, tcb_parts

BASE = "https://kdsintf.amd.com"
VCEK_SECONDS = 10.0
"""Between two requests for a VCEK from one address: asked more often, the service answers 429. A figure of practice."""
MAX_ANSWER = 1 << 20
"""Bytes; a chain has some 5 KiB, genuine CRLs less than 1 KiB."""
KINDS = ("VCEK", "VLEK")

_SPL = {"fmc": "fmcSPL", "bootloader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}
_HWID_BYTES = {Product.TURIN: 8}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def product_of(report: Report, named: Product | None = None) -> Product:
    """The product line whose keys speak for ``report``.

    Version 2 reports don't say it, so it must be ``named`` for them. Raises FormatError (``code`` format.product) for
    a processor that is unknown here, none named where one is needed, and one named that is not the report's.
    """
    found = report.product or (named if report.version == 2 else None)
    if found is None and report.version == 2:
        raise _no_product("a version 2 report does not say its product", "name it: Milan, Genoa or Turin")
    if found is None:
        raise _no_product("the report's processor is of no product known here", "a newer tee-agent may know it")
    if named not in (None, found):
        raise _no_product(f"the report is of {found}, not of {named}", "leave the product out")
    return found


def hwid(report: Report, product: Product) -> bytes:
    """The chip's id as the service knows it: 64 bytes, 8 for Turin. Raises FormatError for a hidden or odd one."""
    size = _HWID_BYTES.get(product, 64)
    if not any(report.chip_id):
        raise FormatError(
            "the report's CHIP_ID is all zeros: its host hides it, so nobody can ask for its VCEK",
            record="report",
            offset=0x1A0,
            hint="take the certificate from the host's table (auxblob)",
            code="format.chip-id",
        )
    if any(report.chip_id[size:]):
        raise FormatError(f"a CHIP_ID of {product} has {size} bytes", record="report", offset=0x1A0 + size)
    return report.chip_id[:size]


def vcek_path(report: Report, product: Product) -> str:
    """Path and query of the VCEK (DER) for chip and REPORTED_TCB. Raises FormatError as ``hwid``."""
    parts = tcb_parts(report.reported_tcb, product)
    query = "&".join(f"{_SPL[name]}={value:02d}" for name, value in parts.items())
    return f"/vcek/v1/{product}/{hwid(report, product).hex()}?{query}"


def chain_path(kind: str, product: Product) -> str:
    """Path of the authorities (PEM: ASK or ASVK, then ARK) above certificates of ``kind`` (VCEK, VLEK)."""
    return f"/{_segment(kind)}/v1/{product}/cert_chain"


def crl_path(kind: str, product: Product) -> str:
    """Path of the CRL (DER) that the product's ARK signs."""
    return f"/{_segment(kind)}/v1/{product}/crl"


def parse_chain(body: bytes) -> tuple[bytes, bytes]:
    """Issuer and root (DER) from a cert_chain: exactly two certificates. Raises FormatError, Oversized."""
    if len(body) > MAX_ANSWER:
        raise Oversized(f"cert_chain has {len(body)} bytes, {MAX_ANSWER} are allowed", record="cert_chain")
    blocks = _PEM.findall(body)
    if len(blocks) != 2 or body.count(b"-----BEGIN ") != len(blocks):
        raise FormatError(
            f"cert_chain has {len(blocks)} certificates, issuer and root are expected", record="cert_chain"
        )
    try:
        issuer, root = (base64.b64decode(b"".join(block.split()), validate=True) for block in blocks)
    except binascii.Error as error:
        raise FormatError("cert_chain is not PEM", record="cert_chain") from error
    return issuer, root


def chain_pem(issuer: bytes, root: bytes) -> bytes:
    """A cert_chain with these two (DER) and nothing else, for keeping."""
    blocks = []
    for der in (issuer, root):
        text = base64.b64encode(der)
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        blocks.append(b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""]))
    return b"".join(blocks)


def _segment(kind: str) -> str:
    if kind not in KINDS:
        raise FormatError(f"the service has nothing for a signing key of kind {kind}", record="report", offset=0x48)
    return kind.lower()


def _no_product(message: str, hint: str) -> FormatError:
    return FormatError(message, record="report", offset=0x188, hint=hint, code="format.product")
