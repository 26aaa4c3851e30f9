"""The largest inputs that are taken, filled with what is dearest to read: bounded memory, and an end.

Fuzzers try small inputs; what grows faster than the input shows here. Memory is what Python allocates (tracemalloc).
A parser that needs quadratic time does not come back before pytest's own time limit.
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from agent import sealing
from agent.core import bundle, canonical
from agent.core.errors import TeeAgentError
from agent.daemon import problem, rpc
from agent.disk import metadata
from agent.verify import endorsements, policysign
from snp import certs as snp_certs
from snp import certtable, kds
from tas import web
from tdx import abi, ccel, collateral, eventjson, eventlog, pcs
from tdx import certs as tdx_certs
from tests.fuzz.contract import GROWTH
from tests.fuzz.on_vendors import tcb_info
from tests.unit.tdx.world import tlv

JSON = [b"[],", b"{},", b'"",', b"[[", b'{"":']
PEM = [b"-----BEGIN CERTIFICATE-----\n", b"-----BEGIN X509 CRL-----", b"-----BEGIN ", b"-", b"-a", b"A\n", b"\n", b"30"]
DER = [b"\x30\x80", b"\x30\x00", b"\x30\x82\xff\xff", b"\x06\x01\x81", b"\x81", b"\x02\x01\x01"]


def json_reader(read: Callable[[bytes], object], limit: int) -> Iterator[tuple[Callable[[bytes], object], bytes]]:
    for unit in JSON:
        closed = b"]" if unit.endswith(b",") else b""
        yield read, b'{"a":[' + unit * ((limit - 10) // len(unit)) + b"0" * bool(closed) + closed + b"}"
    yield read, b'{"a":"' + b"a0" * (limit // 2 - 5) + b'"}'


def texts(read: Callable[[bytes], object], limit: int) -> Iterator[tuple[Callable[[bytes], object], bytes]]:
    for unit in PEM:
        for start in (b"", PEM[0]):
            yield read, start + unit * ((limit - len(start)) // len(unit))


def binaries(read: Callable[[bytes], object], limit: int) -> Iterator[tuple[Callable[[bytes], object], bytes]]:
    for unit in DER:
        filled = unit * ((limit - 64) // len(unit))
        yield read, filled
        for tags in ((0x30, 0x30), (6, 0x30)):
            data = filled
            for tag in tags:
                data = tlv(tag, data)
            yield read, data


CASES = {
    "bundle": json_reader(bundle.decode, bundle.MAX_BYTES),
    "TCB info": json_reader(tcb_info, collateral.MAX_SIZE - 160),
    "event log, JSON": json_reader(eventlog.parse, eventjson.MAX_JSON),
    "LUKS metadata": json_reader(lambda data: metadata.parse(data, 4 << 20), metadata.MAX_TEXT),
    "sealed data": json_reader(sealing.decode, sealing.MAX_BLOB),
    "request to the service": json_reader(lambda data: web.parse_json("application/json", data), web.MAX_BODY),
    "frame between processes": json_reader(lambda data: problem.exception(rpc._parse(data, "answer")), rpc.MAX_ANSWER),
    "folder of endorsements, PEM": texts(lambda data: list(endorsements.sort(data, "file")), endorsements.MAX_FILE),
    "folder of endorsements, DER": binaries(lambda data: list(endorsements.sort(data, "file")), endorsements.MAX_FILE),
    "certificate table": texts(lambda data: certtable._der_objects("VCEK", data), certtable.MAX_SIZE),
    "KDS chain": texts(kds.parse_chain, kds.MAX_ANSWER),
    "PCS CRL": texts(pcs.crl_der, pcs.MAX_ANSWER),
    "PCS issuer chain": texts(lambda data: pcs.issuer_chain({"c": data.decode("latin-1")}, ("c",)), pcs.MAX_CHAIN),
    "quote": binaries(abi.parse, abi.MAX_QUOTE),
    "AMD CRL": binaries(snp_certs.parse_crl, snp_certs.PROFILE.max_crl),
    "Intel CRL": binaries(tdx_certs.load_crl, tdx_certs.PROFILE.max_crl),
    "policy keys": texts(lambda data: list(policysign._BLOCK.finditer(data)), policysign.MAX_FILE),
}


@pytest.mark.parametrize("name", CASES)
def test_the_dearest_of_the_largest(name: str) -> None:
    for read, data in CASES[name]:
        tracemalloc.start()
        try:
            with contextlib.suppress(TeeAgentError):
                read(data)
            assert tracemalloc.get_traced_memory()[1] < GROWTH, data[:60]
        finally:
            tracemalloc.stop()


def test_a_megabyte_of_hex_digits() -> None:
    # A pattern that repeats a group keeps a note for each turn: this took 78 MiB.
    reader = canonical.Reader({"value": "5a" * (1 << 19)}, "document", frozenset({"value"}))
    tracemalloc.start()
    try:
        assert len(reader.hexadecimal("value", 0, 1 << 20)) == 1 << 19
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_an_event_log_full_of_the_smallest_events() -> None:
    head = ccel.build([])
    event = b"\1\0\0\0\x04\0\0\0\1\0\0\0\x0c\0" + bytes(48) + bytes(4)
    area = (head + event * ((ccel.MAX_AREA - len(head)) // len(event))).ljust(ccel.MAX_AREA, b"\xff")
    tracemalloc.start()
    try:
        with pytest.raises(TeeAgentError, match="more than"):
            ccel.parse(area)
        found = ccel.parse((head + event * (ccel.MAX_EVENTS - 1)).ljust(ccel.MAX_AREA, b"\xff"))
        assert len(eventlog.replay(found)) == 4
        assert tracemalloc.get_traced_memory()[1] < GROWTH
    finally:
        tracemalloc.stop()


def test_a_serial_number_of_kilobytes_is_looked_for_in_a_list_of_megabytes() -> None:
    entry = tlv(0x30, tlv(2, b"\x01" * 20) + tlv(0x17, b"260101000000Z"))
    many = entry * ((tdx_certs.PROFILE.max_crl - 1000) // len(entry))
    algorithm, name, date = tdx_certs.ECDSA_SHA256, tlv(0x30, b""), tlv(0x17, b"260101000000Z")
    listed = tlv(2, b"\1") + algorithm + name + date + date + tlv(0x30, many) + tlv(0xA0, tlv(0x30, b""))
    found = tdx_certs.load_crl(tlv(0x30, tlv(0x30, listed) + algorithm + tlv(3, b"\0\0")))
    assert found.revoked_at(int.from_bytes(b"\x01" * 20, "big")) is not None
    assert found.revoked_at(int.from_bytes(b"\x01" * 8000, "big")) is None
    assert found.revoked_at(int.from_bytes(b"\x01" * 19, "big")) is None
