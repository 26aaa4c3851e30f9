"""The command line of the simulator: options to a machine, a machine to a mount."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from agent.core.errors import TeeAgentError, UsageError
from sim import cuse, devices, host
from sim.export import Machine, export
from sim.faults import HELP, Faults, FaultyProvider, parse
from sim.keys import State
from sim.mount import Mount
from sim.psp import GuestOptions, SecureProcessor
from sim.qe import DomainOptions, QuotingEnclave
from sim.quirks import HELP as QUIRKS
from sim.quirks import with_quirks
from sim.service import Face, Service, complain, in_background
from sim.tree import Tree
from snp.words import Product
from tdx import qgs

DESCRIPTION = """\
A simulated TEE below the kernel interface: mounts the content of configfs-tsm's report/ directory
(/sys/kernel/config/tsm/report) with genuine formats, owners, modes and errors; or, with --interface device, serves
/dev/sev-guest, or /dev/tdx_guest and the host's quote generation service. Evidence is signed by throw-away AMD or
Intel hierarchies kept in --state; a verifier accepts it only when given DIR/root.pem of --export as an added root.
Development and tests only: refuses to start on a machine with a genuine TEE. Needs root, and FUSE 3 or CUSE."""

EXAMPLES = """\

examples:
  python3 -m sim --tee snp --mount /tmp/tsm --state /tmp/sim --export /tmp/endorsements
  python3 -m sim --tee snp --report-version 5 --product turin --mount /tmp/tsm --state /tmp/sim --foreground
  python3 -m sim --tee tdx --mount /tmp/tsm --state /tmp/sim --fault ebusy:2 --fault throttle:10:10
  mkdir /tmp/tsm/me; head -c64 /dev/urandom >/tmp/tsm/me/inblob; sha256sum /tmp/tsm/me/outblob; rmdir /tmp/tsm/me
  python3 -m sim --tee snp --mount /tmp/tsm --state /tmp/sim --control /tmp/sim.sock
  python3 -m sim.control /tmp/sim.sock fault eio:1
  modprobe -a cuse vsock_loopback
  python3 -m sim --tee tdx --interface device --state /tmp/sim

Without --foreground it returns once the TEE can be seen; umount MOUNT (or SIGTERM) ends it and leaves nothing but
--state and --export. Exit: 0 ended as asked, 64 usage, 69 cannot run here (genuine TEE, no root, no FUSE or CUSE),
73 mount point, device or port in use."""


def parser() -> argparse.ArgumentParser:
    """All options."""
    result = argparse.ArgumentParser(
        prog="python3 -m sim",
        description=DESCRIPTION,
        epilog=f"{HELP}\n\n{QUIRKS}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--tee", choices=("snp", "tdx", "none"), required=True, help="none: a kernel without provider")
    result.add_argument("--interface", choices=("configfs", "device"), default="configfs", help="configfs if not given")
    result.add_argument("--mount", type=Path, metavar="DIR", help="configfs: mount point, made if missing")
    result.add_argument("--state", type=Path, required=True, metavar="DIR", help="keys and CAs, made at first start")
    result.add_argument("--export", type=Path, metavar="DIR", help="write certs/ crls/ root.pem (TDX: and JSON) here")
    snp = result.add_argument_group("SEV-SNP")
    snp.add_argument("--report-version", type=int, choices=(2, 3, 5), default=3)
    snp.add_argument("--product", choices=[product.lower() for product in Product], default="genoa")
    snp.add_argument("--vmpl-floor", type=int, choices=range(4), default=0, help="privlevel_floor (0)")
    snp.add_argument("--measurement", type=_digest, default=b"", metavar="HEX", help="launch measurement, 48 bytes")
    tdx = result.add_argument_group("TDX")
    for register in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        tdx.add_argument(f"--{register}", type=_digest, default=b"", metavar="HEX", help="48 bytes")
    tdx.add_argument("--qgs-port", type=int, default=qgs.PORT, metavar="N", help="device: vsock port of the QGS (4050)")
    tdx.add_argument("--qgs-socket", type=Path, metavar="PATH", help="device: a Unix socket instead of the vsock port")
    result.add_argument("--debug-guest", action="store_true", help="a guest that its host may debug")
    result.add_argument("--quirk", action="append", default=[], metavar="NAME", help="may be repeated; see below")
    result.add_argument("--fault", action="append", default=[], metavar="SPEC", help="see below")
    result.add_argument("--control", type=Path, metavar="SOCKET", help="change faults later: python3 -m sim.control")
    result.add_argument("--ready-file", type=Path, metavar="FILE", help="gets the process id once the TEE is there")
    result.add_argument("--ready-fd", type=int, metavar="N", help='gets "ready" once the TEE is there')
    result.add_argument("--foreground", action="store_true", help="do not go into the background")
    return result


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status."""
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except TeeAgentError as error:
        return complain(error)


def machine(arguments: argparse.Namespace, now: datetime) -> Machine | None:
    """The hardware that was asked for; None for a kernel without one."""
    if arguments.tee == "none":
        return None
    state = State(arguments.state)
    if arguments.tee == "tdx":
        registers = {name: getattr(arguments, name) for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3")}
        domain = DomainOptions(arguments.mrtd, **registers, debug=arguments.debug_guest)
        return QuotingEnclave(state, with_quirks(domain, arguments.quirk), now)
    options = GuestOptions(
        version=arguments.report_version,
        product=Product(arguments.product.capitalize()),
        measurement=arguments.measurement,
        debug=arguments.debug_guest,
        vmpl_floor=arguments.vmpl_floor,
    )
    return SecureProcessor(state, with_quirks(options, arguments.quirk), now)


def _run(arguments: argparse.Namespace) -> int:
    faults = Faults(tuple(parse(spec) for spec in arguments.fault))
    if arguments.product == Product.TURIN.lower() and arguments.report_version == 2 and arguments.tee == "snp":
        raise UsageError("Turin has no version 2 reports", hint="--report-version 3 or 5")
    device = arguments.interface == "device"
    if device == bool(arguments.mount) or (device and arguments.tee == "none"):
        raise UsageError("--interface configfs needs --mount DIR; --interface device needs a TEE, and no mount point")
    host.refuse_genuine()
    host.require_privileges(cuse.CHANNEL if device else host.FUSE)
    try:
        hardware = machine(arguments, datetime.now(UTC))
        if hardware and arguments.export:
            export(hardware, arguments.export)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    service = Service(
        _face(arguments, hardware, faults), faults, arguments.control, arguments.ready_file, arguments.ready_fd
    )
    return service.run(lambda: None) if arguments.foreground else in_background(service)


def _face(arguments: argparse.Namespace, hardware: Machine | None, faults: Faults) -> Face:
    if hardware is None or arguments.interface == "configfs":
        provider = FaultyProvider(hardware, faults) if hardware else None
        return Mount(Tree(provider, lambda: faults.take("generation-race") is not None), arguments.mount)
    return devices.face(hardware, faults, State(arguments.state), arguments.qgs_socket or arguments.qgs_port)


def _digest(text: str) -> bytes:
    """48 bytes from hex, as argparse wants it: ValueError is its "invalid value"."""
    value = bytes.fromhex(text)
    if len(value) != 48:
        raise argparse.ArgumentTypeError(f"48 bytes in hex are required, not {len(value)}")
    return value
