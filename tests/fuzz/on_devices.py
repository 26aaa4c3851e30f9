"""Targets: what guests' devices, event logs, boot files and the vendors' services give."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from agent.core.errors import TeeAgentError
from agent.core.policy import Policy
from agent.verify import eventlog, policysign
from snp import guestmsg, kds, ovmf
from snp.abi import parse as parse_report
from snp.launch import Launch, measurement
from snp.words import Product
from tdx import abi, ccel, event, eventpath, pcs, pe, predictboot, qgs
from tdx import report as tdreport
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_core import JSON_WORDS, policy_seeds
from tests.fuzz.on_vendors import DER_WORDS, PEM_WORDS
from tests.fuzz.samples import Samples, compact, join, split
from tests.unit.snp import firmware
from tests.unit.tdx import images, logs

_MAX_PIECE = 4096


def guest_message(data: bytes) -> None:
    """What the firmware wrote back, and its error word."""
    guestmsg.error_words(int.from_bytes(data[:8], "little"))
    found = guestmsg.report_of(data)
    if found not in data:
        raise Broken("a report from nowhere")


def quote_service(data: bytes) -> None:
    """A message of the quote generation service, framed or not, in either direction."""
    qgs.error_words(int.from_bytes(data[12:16], "little"))
    for read in (qgs.parse_request, qgs.parse_response):
        try:
            found = read(data)
        except TeeAgentError:
            continue
        again = found.encode()
        if (again[:2], again[4:]) != (data[:2], data[4:]):  # bytes 2 and 3: any minor version is taken
            raise Broken("a message does not come out as it went in")
    if qgs.framed_size(data, qgs.MAX_RESPONSE) < qgs.Header.SIZE:
        raise Broken("a frame without a header")


def td_report(data: bytes) -> None:
    tdreport.report_data(data)
    found = tdreport.parse(data)
    found.fields()
    if tdreport.TdReport.build(**found.values()).data != data:
        raise Broken("a report does not come out as it went in")


_ACTUAL = dict.fromkeys(event.REGISTERS, bytes(48))


def log(data: bytes) -> None:
    """An event log of either form, replayed and put into words."""
    judged = eventlog.judge(data, _ACTUAL)
    eventlog.log_json(judged.log)
    if judged.log.form == "ccel":
        again = ccel.parse(ccel.build(judged.log.events[1:]))
        if [one.digest for one in again[1:]] != [one.digest for one in judged.log.events[1:]]:
            raise Broken("a log does not come out as it went in")


def table(data: bytes) -> None:
    ccel.Table.parse(data)


def vendor_answer(data: bytes) -> None:
    """Answers of AMD's and Intel's services, and the questions that evidence leads to: kind byte, then the bytes."""
    kind, body = data[:1], data[1:]
    if kind == b"c":
        kds.parse_chain(body)
    elif kind == b"r":
        found = parse_report(body)
        for product in Product:
            try:
                kds.vcek_path(found, kds.product_of(found, product))
            except TeeAgentError:
                continue
    elif kind == b"q":
        pcs.target(body)
    elif kind == b"h":
        pcs.issuer_chain({"issuer-chain": body.decode("latin-1")}, ("issuer-chain",))
    else:
        pcs.crl_der(body)


def ovmf_image(data: bytes) -> None:
    """The image's last 4 KiB, with zeros before it."""
    found = ovmf.parse(data[-_MAX_PIECE:].rjust(_MAX_PIECE, b"\0"))
    if sum(section.size for section in found.sections) > 1 << 16:
        return  # hashing it is bounded, but not what is tested here
    measurement(found, Launch(vcpus=1, cpu=0xA10F10))


def pe_image(data: bytes) -> None:
    found = pe.parse(data)
    if len(pe.authenticode(found)) != 48 or sum(map(len, found.hashed())) > len(data):
        raise Broken("more was hashed than is there")
    for section in found.sections:
        found.content(section)
    if predictboot.is_unified(data):
        predictboot.unified(data)
    else:
        predictboot.direct(data, b"initrd", "quiet")


def policy_key(data: bytes) -> None:
    """A policy and a file of keys that may have signed it."""
    document, keys = (*split(data, 2), b"", b"")[:2]
    found = [
        policysign.PolicyKey("key", policysign._spki(match[1].decode(), match[0], "key"))
        for match in policysign._BLOCK.finditer(keys)
    ]
    policysign.verified(Policy.from_bytes(document), found)


def _log_seeds(_: Samples) -> Iterator[bytes]:
    entries = [
        (1, event.SEPARATOR, bytes(48), bytes(4)),
        (2, event.EFI_ACTION, bytes(48), b"Calling EFI Application from Boot Option"),
        (0, event.VARIABLE_DRIVER_CONFIG, bytes(48), _variable("SecureBoot", b"\1")),
        (
            1,
            event.VARIABLE_BOOT,
            bytes(48),
            _variable("Boot0000", b"\1\0\0\0\4\0" + images.ucs2("Linux") + b"\x7f\xff\4\0"),
        ),
        (2, event.IPL, bytes(48), b"grub_cmd: linux\0"),
        (2, event.EVENT_TAG, bytes(48), images.tagged(0x8F3B22ED, "initrd")),
        (3, 0x7FFFFFFF, bytes(48), bytes(64)),
    ]
    yield ccel.build(images.log(entries), 2048)
    yield ccel.build(logs.events())
    filled = bytes(range(1, 41)) + bytes(8)
    path = b"".join(logs.path_node(*kind, filled) for kind in eventpath._NODES) + logs.END
    yield ccel.build(images.log([(0, event.BOOT_APPLICATION, bytes(48), logs.image(path))]))
    for data in (bytes(64), b"\x04text" + bytes(16) + b"\1" + bytes(40), struct.pack("<Q", 1) + bytes(56)):
        yield ccel.build(images.log([(0, kind, bytes(48), data) for kind in event.NAMES]))
    yield compact(
        [
            {"imr": 3, "event_type": 134217729, "digest": "00" * 48, "event": "app-id", "event_payload": "0a0b"},
            {"imr": 0, "event_type": 1, "digest": "11" * 48},
        ]
    )


def _variable(name: str, value: bytes) -> bytes:
    return bytes(16) + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def _table() -> bytes:
    made = ccel.Table.build(signature=b"CCEL", length=ccel.Table.SIZE, cc_type=ccel.TYPE_TDX, log_length=1 << 16)
    return made.replace(checksum=-sum(made.data) & 0xFF).data


def _td_report() -> bytes:
    made = tdreport.TdReport.build(report_type=0x81, report_data=bytes(range(64)), mr_td=b"m" * 48)
    return made.with_hashes().data


def _service_seeds(s: Samples) -> Iterator[bytes]:
    chain = abi.parse(s.quote).certificates
    pems = [block + b"-----END CERTIFICATE-----\n" for block in chain.split(b"-----END CERTIFICATE-----\n")[:3]]
    yield b"c" + b"".join(pems[1:])
    yield from (b"r" + one for one in s.reports)
    yield b"q" + s.quote
    yield b"h" + b"".join(pems[1:]).replace(b"\n", b"%0A").replace(b" ", b"%20")
    yield from (b"x" + crl for crl in s.domain.endorsements().crls)
    yield b"x" + s.domain.endorsements().crls[0].hex().encode()


def _policy_keys(s: Samples) -> Iterator[bytes]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    ark = s.chips[0].hierarchy.ark
    spki = ark.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for document in policy_seeds(s):
        signed = document[:-1] + b',"signature":{"algorithm":"SHA384","padding":"PSS","value":"AAAA"}}'
        yield join(signed, spki)
        yield join(signed, ark.public_bytes(Encoding.PEM))


def _messages(s: Samples) -> Iterator[bytes]:
    yield qgs.Request(bytes(1024)).encode()
    yield qgs.Response(s.quote, b"id").encode()
    yield qgs.Response(error_code=0x12001).encode()


TARGETS = {
    "snp.guestmsg": Target(
        guest_message,
        lambda s: [*map(guestmsg.report_response, s.reports), guestmsg.report_response(b"", 0x16)],
        most=4100,
    ),
    "tdx.qgs": Target(quote_service, _messages, (b"\1\0\0\0\0\0\0\0", b"\1\0\0\0\1\0\0\0", b"\0\0\4\0"), most=6144),
    "tdx.report": Target(td_report, lambda s: [_td_report()], (b"\x81\0\0\0", b"\x81\0\1\0"), most=1100),
    "tdx.eventlog": Target(
        log,
        _log_seeds,
        (*JSON_WORDS, b"event_payload", b"\x0c\0", b"\xff" * 8, b"Spec ID Event03\0", b"\x7f\xff\4\0", bytes(8)),
        ("eventlog/*/event_log.json",),
    ),
    "tdx.ccel_table": Target(table, lambda s: [_table()], (b"CCEL",), ("eventlog/*/ccel_table.bin",), 128),
    "vendor.answers": Target(
        vendor_answer, _service_seeds, (*PEM_WORDS, *DER_WORDS, b"%0A", b"%20", b"3082"), most=8192
    ),
    "snp.ovmf": Target(ovmf_image, lambda s: [firmware.image()[-_MAX_PIECE:]], most=4096),
    "tdx.pe": Target(
        pe_image,
        lambda s: [
            images.pe({".text": b"a" * 100, ".linux": images.kernel("k", size=512), ".cmdline": b"quiet"}),
            images.kernel("k", size=512),
            images.pe({".text": b"a"}, certificates=bytes(16), tail=b"tail", plus=False),
        ],
        (b"MZ", b"PE\0\0", b"HdrS", b".linux\0\0", b".osrel\0\0", b".initrd\0", b".cmdline", b".profile"),
    ),
    "verify.policysign": Target(
        policy_key,
        _policy_keys,
        (*PEM_WORDS, *JSON_WORDS, b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----", b"PKCS1v15", b"SHA384"),
    ),
}
