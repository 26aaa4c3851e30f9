"""What a command line says of a boot, for predicting its measurement: laid over the configuration's [measured]."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from agent.admin import bootfiles
from agent.admin.bootfiles import Files
from agent.core.errors import UsageError
from agent.core.measuredconfig import MeasuredConfig

_SAME = ("ovmf", "kernel", "initrd", "uki", "vcpus", "vcpu_type", "vmm")
MAX_FEATURES = (1 << 64) - 1


def add_boot(parser: argparse.ArgumentParser) -> None:
    """The next boot: its files, and how the host starts it."""
    group = parser.add_argument_group("the next boot (default: [measured] of the configuration, and what is found)")
    group.add_argument("--kernel", type=Path, metavar="FILE", help="kernel")
    group.add_argument("--initrd", type=Path, metavar="FILE", help="initramfs")
    line = group.add_mutually_exclusive_group()
    line.add_argument("--append", "--cmdline", dest="cmdline", metavar="TEXT", help="kernel command line")
    line.add_argument("--cmdline-file", type=Path, metavar="FILE", help="file with the kernel command line")
    group.add_argument("--uki", type=Path, metavar="FILE", help="unified kernel image, in place of the three")
    group.add_argument("--ovmf", type=Path, metavar="FILE", help="SNP: firmware image that the host starts")
    group.add_argument("--vcpus", type=int, metavar="N", help="SNP: number of processors")
    group.add_argument("--vcpu-type", metavar="TYPE", help="SNP: their model, as EPYC-v4, or their signature")
    group.add_argument("--vmm", choices=("qemu", "ec2", "gce"), help="SNP: who starts the machine (default: qemu)")
    group.add_argument("--guest-features", metavar="N", help="SNP: SEV_FEATURES of the processors (default: 1)")
    group.add_argument("--eventlog", type=Path, metavar="FILE", help="TDX: event log of this boot (default: here)")


def add_running(parser: argparse.ArgumentParser) -> None:
    """TDX: this boot, where it is not the machine's own."""
    group = parser.add_argument_group("TDX: the boot that the event log is of (default: this machine's)")
    group.add_argument("--quote", metavar="FILE", help="quote of that boot; its signature is not verified here")
    group.add_argument("--running-kernel", type=Path, metavar="FILE", help="kernel of that boot")
    group.add_argument("--running-initrd", type=Path, metavar="FILE", help="its initramfs")
    group.add_argument("--running-cmdline-file", type=Path, metavar="FILE", help="file with its command line")
    group.add_argument("--running-uki", type=Path, metavar="FILE", help="its unified kernel image")


def merged(config: MeasuredConfig, args: argparse.Namespace) -> MeasuredConfig:
    """The configuration with what the command line says instead. Raises UsageError, Oversized."""
    given = {name: getattr(args, name) for name in _SAME if getattr(args, name) is not None}
    if args.cmdline is not None:
        given["cmdline"] = args.cmdline
    elif args.cmdline_file is not None:
        given["cmdline"] = bootfiles.command_line(args.cmdline_file)
    if args.guest_features is not None:
        given["guest_features"] = _features(args.guest_features)
    if args.eventlog is not None:
        given["event_log"] = args.eventlog
    return replace(config, **given)


def running(args: argparse.Namespace) -> Files | None:
    """The boot that was named; None where none was. Raises UsageError."""
    line = bootfiles.command_line(args.running_cmdline_file) if args.running_cmdline_file else None
    files = Files(args.running_kernel, args.running_initrd, line, args.running_uki)
    if files == Files():
        return None
    if not files.complete:
        raise UsageError(
            "a boot is --running-uki, or --running-kernel with --running-cmdline-file", code="usage.running"
        )
    return files


def _features(text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= MAX_FEATURES:
        raise UsageError(f"--guest-features {text[:40]!r} is no number of 64 bits")
    return value
