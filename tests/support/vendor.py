"""AMD's and Intel's services on loopback, over the simulator's throw-away hierarchies: a real TLS server.

::

    with running_vendor(tmp_path) as vendor:
        vendor.amd(machine("snp", pki_state))
        vendor.intel(machine("tdx", pki_state))
        vendor.fault("cert_chain", "busy", retry_after="30")
        ...  # vendor.url, vendor.authority (PEM), vendor.requests

A fault is in line for the next request whose path has that part. Paths as in AMD 57230 and Intel's PCS API version 4.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from sim import keys
from sim.psp import SecureProcessor
from sim.qe import QuotingEnclave
from snp import kds
from snp.abi import Report, parse
from snp.words import Product
from tdx import pcs
from tests.support import certificates

_PLATFORM = pcs.Authority.PLATFORM


@dataclass(frozen=True)
class Reply:
    """What is sent, as it is."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    """Of the body as announced; another one than the true one cuts the answer, -1 announces none."""
    stall: bool = False
    """Nothing comes until the server ends."""
    drip: bool = False
    """A header that never ends, some bytes at a time."""


@dataclass
class Vendor:
    """``replies`` by path and query; ``rate`` says whether a VCEK may be had now (429 otherwise)."""

    url: str
    authority: Path
    replies: dict[str, Reply] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    rate: Callable[[], bool] = lambda: True
    faults: list[tuple[str, Reply]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def amd(self, chip: SecureProcessor) -> None:
        """Serve what AMD would for this chip and its product."""
        report = report_of(chip)
        product = report.product or Product.MILAN
        ark, issuer, leaf = chip.certificates().values()
        self.replies[kds.chain_path(chip.kind, product)] = Reply(keys.pem_of(issuer) + keys.pem_of(ark))
        self.replies[kds.crl_path(chip.kind, product)] = Reply(chip.crls()["ark"])
        if chip.kind == "VCEK":
            self.replies[kds.vcek_path(report, product)] = Reply(leaf)

    def intel(self, enclave: QuotingEnclave, fmspc: bytes = b"", tcb_info: bytes = b"", early: bool = False) -> None:
        """Serve what Intel would for this platform; ``fmspc`` and ``tcb_info`` are another platform's."""
        target = pcs.target(enclave.report(bytes(64)).outblob)
        update = pcs.Update.EARLY if early else pcs.Update.STANDARD
        found = enclave.certificates()
        signer, root, ca = found["tcb-signing"], found["root-ca"], found["pck-platform-ca"]
        tcb_path = pcs.tcb_info_path(fmspc or target.fmspc, update)
        self.replies[tcb_path] = _with_chain(tcb_info or enclave.tcb_info, "TCB-Info-Issuer-Chain", signer, root)
        self.replies[pcs.qe_identity_path(update)] = _with_chain(
            enclave.qe_identity, "SGX-Enclave-Identity-Issuer-Chain", signer, root
        )
        crls = enclave.crls()
        self.replies[pcs.pck_crl_path(_PLATFORM)] = _with_chain(
            crls["pck-platform-ca"], "SGX-PCK-CRL-Issuer-Chain", ca, root
        )
        # As a PCCS has it: hex of the DER.
        self.replies[pcs.ROOT_CRL_PATH] = Reply(crls["root-ca"].hex().encode())

    def change(self, part: str, reply: Reply) -> None:
        """From now on this is the answer to every path that has ``part``; its chain's header stays."""
        changed = [path for path in self.replies if part in path]
        assert changed, f"nothing is served at {part}"
        for path in changed:
            self.replies[path] = Reply(
                reply.body, reply.status, {**self.replies[path].headers, **reply.headers}, reply.length, reply.stall
            )

    def fault(self, part: str, kind: str, *, count: int = 1, **words: str) -> None:
        """Put one in line: busy (retry_after), redirect (to), oversize, cut, endless, stall, drip, gone, broken, garbage, compressed."""
        self.faults += [(part, _FAULTS[kind](**words))] * count

    def reply(self, path: str) -> Reply:
        self.requests.append(path)
        for index, (part, reply) in enumerate(self.faults):
            if part in path:
                del self.faults[index]
                return reply
        if "SPL=" in path and not self.rate():
            return Reply(b"slow down", 429)
        return self.replies.get(path, Reply(b"no such thing", 404))


_FAULTS: dict[str, Callable[..., Reply]] = {
    "busy": lambda retry_after="": Reply(b"", 429, {"Retry-After": retry_after} if retry_after else {}),
    "redirect": lambda to: Reply(b"", 302, {"Location": to}),
    "oversize": lambda: Reply(b"0" * ((1 << 20) + 1)),
    "cut": lambda: Reply(b"half", length=4096),
    "endless": lambda: Reply(b"until we hang up", length=-1),
    "stall": lambda: Reply(stall=True),
    "drip": lambda: Reply(drip=True),
    "gone": lambda: Reply(b"", 404),
    "broken": lambda: Reply(b"", 500),
    "garbage": lambda: Reply(b"<html>welcome to the hotel's network</html>"),
    "compressed": lambda: Reply(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
}


def report_of(chip: SecureProcessor) -> Report:
    """A report of this chip over nothing in particular."""
    return parse(chip.report(bytes(64), 0).outblob)


@contextmanager
def running_vendor(folder: Path, *, plain: bool = False) -> Iterator[Vendor]:
    """The server on a free port; its throw-away authority is a PEM file in ``folder``. ``plain`` is http."""
    vendor = Vendor("", folder / "vendor-ca.pem")
    server = _Server(("127.0.0.1", 0), _handler(vendor))
    if not plain:
        authority = certificates.make("vendor's authority", authority=True)
        vendor.authority.write_bytes(authority.pem())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.make("vendor", authority).chain_file(folder / "vendor.pem"))
        # The handshake belongs to the connection's own thread, not to the one that accepts.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    vendor.url = f"{'http' if plain else 'https'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield vendor
    finally:
        vendor.ending.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left, or that did not like our certificate."""


def _handler(vendor: Vendor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 20

        def do_GET(self) -> None:
            reply = vendor.reply(self.path)
            if reply.stall:
                vendor.ending.wait()
                return
            if reply.drip:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                while not vendor.ending.wait(0.02):
                    self.wfile.write(b"drip")
                return
            self.send_response(reply.status)
            if reply.length != -1:
                self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    return Handler


def _with_chain(body: bytes, header: str, *chain: bytes) -> Reply:
    """Intel's way: the issuer's chain URL-encoded in a header."""
    return Reply(body, headers={header: quote(b"".join(map(keys.pem_of, chain)))})
