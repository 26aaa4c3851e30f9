"""The allow-list of the kernel command line: what the host may write there, and what nobody may allow."""

from __future__ import annotations

import pytest

from agent.core.cmdline import DEFAULT_ALLOW, check
from agent.core.config import parse
from agent.core.errors import ConfigError, Denied

USUAL = "BOOT_IMAGE=/boot/vmlinuz-6.12 root=/dev/mapper/root ro quiet console=tty0 console=ttyS0,115200n8"


@pytest.mark.parametrize(
    ("line", "root"),
    [
        (USUAL, "/dev/mapper/root"),
        (
            "root=UUID=7ee0a9e4-0000-4000-8000-000000000002 ro net.ifnames=0\n",
            "UUID=7ee0a9e4-0000-4000-8000-000000000002",
        ),
        ("  ro  quiet ", ""),
        ("", ""),
    ],
)
def test_usual_lines_pass(line: str, root: str) -> None:
    assert check(line, DEFAULT_ALLOW) == root


@pytest.mark.parametrize(
    "word",
    [
        "break",
        "break=top",
        "break=init",
        "init=/bin/sh",
        "rdinit=/bin/sh",
        "rescue",
        "emergency",
        "single",
        "S",
        "1",
        "-b",
        "--",
        "debug",
        "systemd.unit=rescue.target",
        "systemd.debug_shell",
        "rd.break",
        "boot=nfs",
        "nfsroot=10.0.0.1:/x",
        "ip=10.0.0.9::10.0.0.1:255.255.255.0",
        "cryptopts=target=root,source=/dev/vdb",
        "resume=/dev/vdb",
        "rootflags=x",
        "initramfs.runsize=1%",
        "bootconfig",
        "LD_PRELOAD=/x",
        "rootfstype=ext4",
        "quiet2",
        "Quiet",
        "ro=1",
    ],
)
def test_a_word_that_is_not_named_is_refused_by_name(word: str) -> None:
    with pytest.raises(Denied, match="has") as caught:
        check(f"{USUAL} {word}", DEFAULT_ALLOW)
    assert caught.value.code == "denied.cmdline"
    assert repr(word) in caught.value.message


@pytest.mark.parametrize(
    "word",
    [
        '"console=tty0',
        'console=tty0"',
        "console=tty0\\",
        "console=*",
        "console=$(sh)",
        "console=a\tinit=/bin/sh",
        "console=a\ninit=/bin/sh",
        "console=a\x0binit=/bin/sh",
        "console=a\xa0init=/bin/sh",
        "console='x",
        "console=a;b",
    ],
)
def test_what_is_split_differently_by_others_is_refused_whole(word: str) -> None:
    with pytest.raises(Denied, match="unusual characters"):
        check(f"{USUAL} {word}", DEFAULT_ALLOW)


def test_root_is_the_configured_one_and_stands_once() -> None:
    assert check("root=/dev/mapper/root ro", DEFAULT_ALLOW, "/dev/mapper/root") == "/dev/mapper/root"
    for line in ("root=/dev/vdb ro", "ro", "root=/dev/mapper/root2"):
        with pytest.raises(Denied, match="the configuration wants root=/dev/mapper/root"):
            check(line, DEFAULT_ALLOW, "/dev/mapper/root")
    with pytest.raises(Denied, match="more than once"):
        check("root=/dev/mapper/root root=/dev/vdb", DEFAULT_ALLOW, "/dev/mapper/root")


def test_a_longer_list_is_the_admin_s_choice() -> None:
    config = parse('[boot]\ncmdline_allow = ["root=", "ro", "apparmor=", "nosmt"]\n', "t")
    assert check("root=/dev/vda ro apparmor=1 nosmt", config.boot.cmdline_allow) == "/dev/vda"
    with pytest.raises(Denied):
        check("root=/dev/vda ro quiet", config.boot.cmdline_allow)


@pytest.mark.parametrize(
    "word",
    ["init=", "init=/sbin/init", "rdinit=", "break=", "break", "single", "rescue", "emergency", "1", "systemd.unit=",
     "systemd.run=", "rd.break", "ip=", "boot=", "cryptopts=", "-x", "debug", "debug="],
)  # fmt: skip
def test_nobody_can_allow_what_hands_the_machine_over(word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f'[boot]\ncmdline_allow = ["{word}"]\n', "t")
    assert caught.value.code == "config.unsafe"


@pytest.mark.parametrize("word", ["", "a b", "a*", '"', "ö"])
def test_configured_words_are_plain(word: str) -> None:
    with pytest.raises(ConfigError):
        parse(f"[boot]\ncmdline_allow = ['{word}']\n", "t")


def test_an_endless_line_is_refused() -> None:
    with pytest.raises(Denied, match="longer than"):
        check("ro " * 2000, DEFAULT_ALLOW)
