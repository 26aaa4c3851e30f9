"""Which kernel command lines early boot accepts: every word must be one that the measured configuration names.

Pure. The command line comes from the host. initramfs-tools, systemd and the kernel each split it in their own way
(quotes, backslashes, shell patterns), so a line with anything but plain words is refused as a whole: what is left
means the same to all three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from agent.core.checks import At, text
from agent.core.errors import Denied

DEFAULT_ALLOW = (
    "BOOT_IMAGE=",
    "root=",
    "ro",
    "rw",
    "quiet",
    "splash",
    "console=",
    "consoleblank=",
    "earlyprintk=",
    "loglevel=",
    "net.ifnames=",
    "nvme_core.io_timeout=",
    "panic=",
    "systemd.show_status=",
)
"""Enough for direct boot and for the GRUB of Debian's cloud images. A word that ends in ``=`` allows every value."""

MAX_BYTES = 4096
"""Of a command line: the kernel's own limit is 2048 on x86."""

_WORD = re.compile(r"[A-Za-z0-9_.,:/=@%+~-]+", re.ASCII)
_NEVER = re.compile(
    r"(rd)?init=|init$|break|rescue|emergency|single|[sS1-5]$|-|debug|boot=|cryptopts=|nfsroot=|ip=|initramfs\."
    r"|systemd\.(unit|debug|run|wants|mask|setenv|default|set_credential|import_credential)|rd\.",
    re.ASCII,
)
"""What would hand the machine to whoever wrote the command line: can't be allowed even by configuration."""


def allowed_word(value: Any, at: At) -> str:
    """A configured word. Raises ConfigError for one that would give the machine away."""
    given = text(256)(value, at)
    if not _WORD.fullmatch(given):
        raise at.refuse("must be one word of letters, digits and _ . , : / = @ % + ~ -")
    if _NEVER.match(given):
        raise at.refuse(
            f"{given} would let the kernel command line, which the host writes, decide what is started",
            hint="leave it out",
            code="config.unsafe",
        )
    return given


def check(line: str, allow: Sequence[str], root: str = "") -> str:
    """The value of ``root=`` in ``line``, "" without one. ``root``, where given, is the only value accepted.

    Raises Denied (``denied.cmdline``), naming the first word that is not allowed.
    """
    if len(line) > MAX_BYTES:
        raise _denied(f"is longer than {MAX_BYTES} characters")
    words = line.strip("\n").split(" ")
    for word in words:
        if word and not _WORD.fullmatch(word):
            raise _denied(f"has a word with unusual characters: {word[:80]!a}")
        if word and not any(_allows(one, word) for one in allow):
            raise _denied(f"has {word[:80]!a}, which the configuration does not allow")
    roots = [word.removeprefix("root=") for word in words if word.startswith("root=")]
    if len(roots) > 1:
        raise _denied("names root= more than once")
    found = roots[0] if roots else ""
    if root and found != root:
        raise _denied(f"has root={found}, the configuration wants root={root}")
    return found


def _allows(allowed: str, word: str) -> bool:
    return word.startswith(allowed) if allowed.endswith("=") else word == allowed


def _denied(problem: str) -> Denied:
    return Denied(
        f"the kernel command line {problem}",
        hint="allowed words: [boot] cmdline_allow in tee-agent.toml, then update-initramfs -u",
        code="denied.cmdline",
    )
