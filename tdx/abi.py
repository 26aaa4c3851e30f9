"""The bytes of a TDX quote, versions 4 and 5: parser and writer over one set of tables. No cryptography, no trust.

Sources: Intel TDX DCAP Quote Generation Library, appendix A.3 (version 4) and A.4 (version 5); Intel TDX Module Base
Architecture Specification, TDREPORT; Intel SDM volume 3D, SGX REPORT. Layout of a quote::

    header 48 | version 5 only: body type u16, body size u32 | TD report body 584 or 648 | signature data size u32
    signature data: signature 64 | attestation key 64 | type 6 u16, size u32
      certification data: QE report 384 | its signature 64 | auth data size u16, auth data | type 5 u16, size u32, PEM

The signature covers header, body descriptor and body. Everything after the quote must be zero padding.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from agent.core.errors import FormatError, Oversized, Truncated, UnsupportedVersion
from agent.core.wire import Record, raw, uint

TEE_TDX = 0x81
ECDSA_P256 = 2
"""Attestation key type: ECDSA over P-256 with SHA-256."""
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
CERT_PCK_CHAIN = 5
CERT_QE_REPORT = 6
BODY_TD10 = 2
BODY_TD15 = 3
TD_DEBUG = 1
"""Bit 0 of td_attributes (little endian)."""
_QE_NAMES = ("cpusvn", "miscselect", "attributes", "mrenclave", "mrsigner", "isvprodid", "isvsvn")
MAX_QUOTE = 1 << 16
"""Bytes of a delivered buffer at the most, padding included (the kernel's own limit is 8 KiB to 32 KiB)."""


class Header(Record, size=48, title="TDX quote header"):
    version = uint(0, 16)
    att_key_type = uint(2, 16)
    tee_type = uint(4, 32)
    qe_vendor_id = raw(12, 16)
    user_data = raw(28, 20)


class BodyDescriptor(Record, size=6, title="TDX quote body descriptor"):
    body_type = uint(0, 16)
    body_size = uint(2, 32)


class Body(Record, size=584, title="TD report body"):
    """TD report body of TDX 1.0 (version 4; version 5 body type 2)."""

    tee_tcb_svn = raw(0, 16)
    mr_seam = raw(16, 48)
    mr_signer_seam = raw(64, 48)
    seam_attributes = raw(112, 8)
    td_attributes = raw(120, 8)
    xfam = raw(128, 8)
    mr_td = raw(136, 48)
    mr_config_id = raw(184, 48)
    mr_owner = raw(232, 48)
    mr_owner_config = raw(280, 48)
    rtmr0 = raw(328, 48)
    rtmr1 = raw(376, 48)
    rtmr2 = raw(424, 48)
    rtmr3 = raw(472, 48)
    report_data = raw(520, 64)

    @property
    def debug(self) -> bool:
        return bool(self.td_attributes[0] & TD_DEBUG)


class Body15(Body, size=648, title="TD 1.5 report body"):
    """TD report body of TDX 1.5 (version 5 body type 3): the current module's SVN beside that of the TD's launch."""

    tee_tcb_svn_2 = raw(584, 16)
    mr_service_td = raw(600, 48)


class QeReport(Record, size=384, title="QE report"):
    """SGX report body of the quoting enclave."""

    cpusvn = raw(0, 16)
    miscselect = raw(16, 4)
    isvextprodid = raw(32, 16)
    attributes = raw(48, 16)
    mrenclave = raw(64, 32)
    mrsigner = raw(128, 32)
    configid = raw(192, 64)
    isvprodid = uint(256, 16)
    isvsvn = uint(258, 16)
    configsvn = uint(260, 16)
    isvfamilyid = raw(304, 16)
    report_data = raw(320, 64)


class SignatureHead(Record, size=134, title="TDX quote signature data"):
    signature = raw(0, 64)
    attestation_key = raw(64, 64)
    cert_type = uint(128, 16)
    cert_size = uint(130, 32)


class QeCertification(Record, size=450, title="QE report certification data"):
    qe_report = raw(0, 384)
    qe_signature = raw(384, 64)
    auth_size = uint(448, 16)


class CertHead(Record, size=6, title="certification data header"):
    cert_type = uint(0, 16)
    cert_size = uint(2, 32)


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote. ECDSA signatures are r || s, the attestation key x || y, big endian (64 bytes each).

    ``data`` is exactly the quote, ``trailing`` the number of zero bytes that followed it. ``certificates`` is the
    PCK chain as delivered (PEM, sometimes NUL-terminated).
    """

    header: Header
    body: Body
    signature: bytes
    attestation_key: bytes
    qe_report: QeReport
    qe_signature: bytes
    auth_data: bytes
    certificates: bytes
    data: bytes
    trailing: int = 0

    @property
    def signed(self) -> bytes:
        """The bytes under the attestation key's signature."""
        return self.data[: len(self.data) - self.signature_data_size - 4]

    @property
    def signature_data_size(self) -> int:
        heads = SignatureHead.SIZE + QeCertification.SIZE + CertHead.SIZE
        return heads + len(self.auth_data) + len(self.certificates)

    def encode(self) -> bytes:
        """The quote written again from its parts: equals ``data``."""
        return build_quote(
            signed_part(self.header, self.body),
            signature=self.signature,
            attestation_key=self.attestation_key,
            qe_report=self.qe_report,
            qe_signature=self.qe_signature,
            auth_data=self.auth_data,
            certificates=self.certificates,
        )

    def fields(self) -> dict[str, Any]:
        """Every named value, JSON-able: byte strings as hex in file order (docs/evidence.md)."""
        qe = _plain(self.qe_report)
        return {
            "header": {
                **_plain(self.header),
                "tee_type": f"0x{self.header.tee_type:08x}",
                "reserved": self.header.data[8:12].hex(),
            },
            "body_type": None if self.header.version == 4 else body_type(self.body),
            "body_size": self.body.SIZE,
            **_plain(self.body),
            "td_debug": self.body.debug,
            "signature_data_len": self.signature_data_size,
            "quote_len": len(self.data),
            "trailing_bytes": self.trailing,
            "qe": {name: qe[name] for name in _QE_NAMES} | {"auth_data": self.auth_data.hex()},
            "certification_data": {
                "outer_type": CERT_QE_REPORT,
                "outer_size": self.signature_data_size - SignatureHead.SIZE,
                "inner_type": CERT_PCK_CHAIN,
                "inner_size": len(self.certificates),
            },
        }


def signed_part(header: Header, body: Body) -> bytes:
    """Header, body descriptor (version 5) and body: what the attestation key signs."""
    if header.version == 4:
        return header.data + body.data
    return header.data + BodyDescriptor.build(body_type=body_type(body), body_size=body.SIZE).data + body.data


def body_type(body: Body) -> int:
    """The version 5 number of a body's kind."""
    return BODY_TD15 if isinstance(body, Body15) else BODY_TD10


def build_quote(
    signed: bytes,
    *,
    signature: bytes,
    attestation_key: bytes,
    qe_report: QeReport,
    qe_signature: bytes,
    auth_data: bytes,
    certificates: bytes,
) -> bytes:
    """The mirror of parse: ``signed`` is signed_part(); nothing is checked but sizes (ValueError)."""
    inner = CertHead.build(cert_type=CERT_PCK_CHAIN, cert_size=len(certificates)).data + certificates
    certification = (
        QeCertification.build(qe_report=qe_report.data, qe_signature=qe_signature, auth_size=len(auth_data)).data
        + auth_data
        + inner
    )
    head = SignatureHead.build(
        signature=signature, attestation_key=attestation_key, cert_type=CERT_QE_REPORT, cert_size=len(certification)
    )
    return signed + struct.pack("<I", SignatureHead.SIZE + len(certification)) + head.data + certification


def parse(data: bytes) -> Quote:
    """A quote as delivered. Raises Truncated, Oversized, UnsupportedVersion, FormatError."""
    if len(data) > MAX_QUOTE:
        raise Oversized(f"quote has {len(data)} bytes, {MAX_QUOTE} are allowed", record="TDX quote", offset=MAX_QUOTE)
    header, body, at = _parse_signed(data)
    start = at + 4
    if len(data) < start:
        raise Truncated("TDX quote is truncated: signature data length is missing", record="TDX quote", offset=at)
    size = int.from_bytes(data[at:start], "little")
    end = start + size
    if end > len(data):
        raise Truncated(
            f"signature data length is larger than the remaining bytes: {size} against {len(data) - start}",
            record="TDX quote",
            offset=at,
        )
    _require_padding(data, end)
    head = SignatureHead.parse_prefix(data[start:end])
    certification = _certification(head, data[start:end], CERT_QE_REPORT)
    qe = QeCertification.parse_prefix(certification)
    rest = certification[QeCertification.SIZE :]
    if qe.auth_size > len(rest):
        raise Truncated(f"QE authentication data has {qe.auth_size} bytes, {len(rest)} are there", record=qe.TITLE)
    inner = rest[qe.auth_size :]
    certificates = _certification(CertHead.parse_prefix(inner), inner, CERT_PCK_CHAIN)
    return Quote(
        header=header,
        body=body,
        signature=head.signature,
        attestation_key=head.attestation_key,
        qe_report=QeReport.parse(qe.qe_report),
        qe_signature=qe.qe_signature,
        auth_data=rest[: qe.auth_size],
        certificates=certificates,
        data=data[:end],
        trailing=len(data) - end,
    )


def _parse_signed(data: bytes) -> tuple[Header, Body, int]:
    """Header, body, and the offset after them. The version is judged first."""
    if len(data) >= 2 and (version := int.from_bytes(data[:2], "little")) not in {4, 5}:
        raise UnsupportedVersion(f"unsupported TDX quote version {version}", record="TDX quote header", offset=0)
    header = Header.parse_prefix(data)
    if header.version == 4:
        return header, Body.parse_prefix(data[48:]), 48 + Body.SIZE
    descriptor = BodyDescriptor.parse_prefix(data[48:])
    kind = {BODY_TD10: Body, BODY_TD15: Body15}.get(descriptor.body_type)
    if kind is None:
        raise UnsupportedVersion(
            f"quote body type {descriptor.body_type} is not a TD report (2 or 3)", record=descriptor.TITLE, offset=48
        )
    if descriptor.body_size != kind.SIZE:
        problem = f"{kind.TITLE} has {kind.SIZE} bytes, the quote says {descriptor.body_size}"
        raise FormatError(problem, record=descriptor.TITLE, offset=50)
    return header, kind.parse_prefix(data[54:]), 54 + kind.SIZE


def _certification(head: SignatureHead | CertHead, data: bytes, wanted: int) -> bytes:
    """What follows a head, if it is of the wanted type and exactly as long as the head says."""
    if head.cert_type != wanted:
        raise FormatError(
            f"certification data type {head.cert_type} is not supported, {wanted} is required",
            record=head.TITLE,
            code="format.tdx.certification",
        )
    rest = data[head.SIZE :]
    if head.cert_size != len(rest):
        kind = Truncated if head.cert_size > len(rest) else Oversized
        raise kind(f"{head.TITLE}: {head.cert_size} bytes are announced, {len(rest)} are there", record=head.TITLE)
    return rest


def _require_padding(data: bytes, end: int) -> None:
    if any(data[end:]):
        problem = f"unexpected data after the {end}-byte quote: {len(data) - end} bytes, not all zero"
        raise Oversized(problem, record="TDX quote", offset=end)


def _plain(record: Record) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in record.values().items()}
