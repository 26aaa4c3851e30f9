"""Targets: what AMD's and Intel's hardware, firmware, hosts and services give."""

from __future__ import annotations

from typing import Any, cast

from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements
from agent.verify import endorsements, evidence
from agent.verify.shelf import Shelf
from snp import abi as snp_abi
from snp import certs as snp_certs
from snp import certtable
from snp.words import Product
from tdx import abi as tdx_abi
from tdx import certs as tdx_certs
from tdx import chain, collateral, pck
from tests.fuzz.contract import Broken, Target
from tests.fuzz.samples import AT, compact, packed, split
from tests.unit.tdx import world

PEM_WORDS = (b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----", b"-----BEGIN X509 CRL-----", b"\n", b"MIIB")
DER_WORDS = (
    *(bytes([tag]) for tag in (0x01, 0x02, 0x03, 0x04, 0x06, 0x0C, 0x13, 0x16, 0x17, 0x18, 0x30, 0x31, 0xA0, 0xA3)),
    bytes.fromhex("a003020102"),
    bytes.fromhex("06035504030c"),
    bytes.fromhex("0603551d13"),
    bytes.fromhex("0603551d0f"),
    bytes.fromhex("300a06082a8648ce3d040302"),
    b"\x17\x0d260101000000Z",
    b"\x18\x0f20260101000000Z",
    b"\x30\x82\x01\x00",
    b"\x30\x83\x01\x00\x00",
)


def report(data: bytes) -> None:
    found = snp_abi.parse(data)
    if type(found).build(**found.values()).data != data:
        raise Broken("a report does not come out as it went in")
    for product in (None, *Product):
        found.fields(product)


def table(data: bytes) -> None:
    if certtable.parse(certtable.build(certtable.parse(data))) != certtable.parse(data):
        raise Broken("a table does not come out as it went in")
    certtable.certificates(data)


def snp_certificate(data: bytes) -> None:
    found = snp_certs.parse_certificate(data)
    for ask in (snp_certs.is_authority, snp_certs.leaf_values, snp_certs.ec_key):
        try:
            ask(found)
        except TeeAgentError:
            continue


def snp_crl(data: bytes) -> None:
    found = snp_certs.parse_crl(data)
    for serial in (0, 1, 0x20001, 0x7E3882D5FB55294A40498E458403E91491BDF455):
        found.revoked_at(serial)


def quote(data: bytes) -> None:
    found = tdx_abi.parse(data)
    if found.encode() != found.data or data[: len(found.data)] != found.data or any(data[len(found.data) :]):
        raise Broken("a quote does not come out as it went in")
    found.fields()


class _Believer:
    """A signer whose key accepts every signature, so that the fuzzer gets to what is signed."""

    class key:
        @staticmethod
        def verify(*_: object) -> None:
            """Whatever it is, it is good."""


_SIGNERS = (cast(Any, _Believer()),)
_SIGNATURE = b',"signature":"' + b"0" * 128 + b'"}'


def tcb_info(data: bytes) -> None:
    collateral.load_tcb_info(b'{"tcbInfo":' + data + _SIGNATURE, _SIGNERS)


def qe_identity(data: bytes) -> None:
    collateral.load_qe_identity(b'{"enclaveIdentity":' + data + _SIGNATURE, _SIGNERS)


def tdx_certificate(data: bytes) -> None:
    tdx_certs.is_rsa_signed(data)
    found = tdx_certs.load_certificate(data, "a certificate")
    for authority in (True, False):
        try:
            found.require_role(authority=authority)
        except TeeAgentError:
            continue
    if pck.SGX_EXTENSION in found.extensions:
        pck.parse_extension(found.extensions[pck.SGX_EXTENSION].value).fields()


def tdx_crl(data: bytes) -> None:
    tdx_certs.is_rsa_signed(data)
    found = tdx_certs.load_crl(data)
    for serial in (0, 1, 3, 0x7E3882D5FB55294A40498E458403E91491BDF455):
        found.revoked_at(serial)
    found.require_current(AT)


def extension(data: bytes) -> None:
    pck.parse_extension(data).fields()


def pem_chain(data: bytes) -> None:
    chain.trusted_chain(data, ())


def whole(data: bytes) -> None:
    """Evidence with all its endorsements through the verifier, under whatever root came along."""
    blob, found = _evidence(data)
    evidence.parse_fields(blob)
    evidence.signature_valid(blob, found, AT)


def shelf(data: bytes) -> None:
    """The same, sorted as for many machines; what is picked is no more than there was."""
    blob, found = _evidence(data)
    picked = Shelf.of(found).select(blob)
    if not set(picked.certificates) <= set(found.certificates) or not set(picked.crls) <= set(found.crls):
        raise Broken("something was picked that was not there")


def _evidence(data: bytes) -> tuple[bytes, Endorsements]:
    blob, *rest = split(data) or [b""]
    found: dict[str, list[bytes]] = {}
    for part in rest:
        for kind, content in endorsements.sort(part, "part"):
            found.setdefault(kind, []).append(content)
    certificates, crls = (tuple(found.get(kind, ())) for kind in ("certificate", "crl"))
    bodies = [found.get(kind, [b""])[0] for kind in ("tcbInfo", "enclaveIdentity")]
    return blob, Endorsements(certificates, crls, *bodies)


def folder(data: bytes) -> None:
    for kind, content in endorsements.sort(data, "file"):
        if kind in ("certificate", "crl") and len(content) > len(data):
            raise Broken("more came out than went in")
    evidence.anchor_from_pem(data, "root")


TARGETS = {
    "snp.abi": Target(
        report, lambda s: s.reports, (b"\2\0\0\0", b"\3\0\0\0", b"\5\0\0\0"), ("snp/*/report.bin",), 1300
    ),
    "snp.certtable": Target(
        table, lambda s: s.tables, (*map(bytes, (24, 16, 8)), *PEM_WORDS), ("snp/*/auxblob.bin",), 16384
    ),
    "snp.certificate": Target(
        snp_certificate, lambda s: s.certificates(*s.chips), DER_WORDS, ("snp/*/*.pem", "roots/amd-*.pem"), 4096
    ),
    "snp.crl": Target(
        snp_crl, lambda s: (crl for chip in s.chips for crl in chip.endorsements().crls), DER_WORDS, ("snp/*/*.der",)
    ),
    "snp.verify": Target(
        whole,
        lambda s: (packed(blob, chip.endorsements()) for blob, chip in zip(s.reports, s.chips, strict=True)),
        DER_WORDS,
        most=12288,
    ),
    "tdx.abi": Target(
        quote,
        lambda s: [s.quote, world.World().quote()],
        (b"\4\0\2\0\x81\0\0\0", b"\5\0\2\0\x81\0\0\0", b"\2\0\x48\2\0\0", b"\3\0\x88\2\0\0", *PEM_WORDS),
        ("tdx/*/quote.bin",),
    ),
    "tdx.tcb_info": Target(
        tcb_info,
        lambda s: [compact(world.tcb_info()), s.domain.tcb_info[11:-144]],
        (b'"tcbLevels":[', b'"tdxModuleIdentities":[', b'"svn":', b"TDX_01", b"1e999", b"-1", b"null", b'"tcb":{'),
        most=16384,
    ),
    "tdx.qe_identity": Target(
        qe_identity,
        lambda s: [compact(world.qe_identity()), s.domain.qe_identity[19:-144]],
        (b'"tcbLevels":[', b'"isvsvn":', b'"mrsigner":"', b"1e999", b"-1", b"null"),
    ),
    "tdx.certificate": Target(
        tdx_certificate,
        lambda s: s.certificates(s.domain),
        DER_WORDS,
        ("tdx/*/collateral/*.pem", "roots/intel-*.pem"),
        4096,
    ),
    "tdx.crl": Target(tdx_crl, lambda s: s.domain.endorsements().crls, DER_WORDS, ("tdx/*/collateral/*.der",)),
    "tdx.pck": Target(extension, lambda s: [world.sgx_extension()], (world.ARC, *DER_WORDS), most=2048),
    "tdx.chain": Target(pem_chain, lambda s: [tdx_abi.parse(s.quote).certificates], PEM_WORDS),
    "tdx.verify": Target(
        whole,
        lambda s: [
            packed(s.quote, s.domain.endorsements()),
            packed(world.World().quote(), world.World().endorsements()),
        ],
        (b"tcbInfo", b"enclaveIdentity", *DER_WORDS),
        most=20480,
    ),
    "verify.shelf": Target(
        shelf,
        lambda s: [
            packed(s.reports[1], s.chips[1].endorsements()),
            packed(s.reports[2], s.chips[2].endorsements().merged(s.domain.endorsements())),
            packed(s.quote, s.domain.endorsements()),
        ],
        (b"tcbInfo", b"enclaveIdentity", b"fmspc", b"pceId", *DER_WORDS),
        most=16384,
    ),
    "verify.endorsements": Target(
        folder,
        lambda s: [
            *s.certificates(s.domain),
            *s.domain.endorsements().crls,
            s.domain.tcb_info,
            tdx_abi.parse(s.quote).certificates,
        ],
        (*PEM_WORDS, *DER_WORDS, b"tcbInfo", b"enclaveIdentity"),
        ("roots/*.pem", "tdx/*/collateral/*"),
        16384,
    ),
}
