"""Looks at the booted machine from inside, sends what it sees over the second serial line, and switches off.

Standard library only, as the guest has it. One JSON object, on one line: each probe's facts by its name, or the error
that kept a probe from its facts. Which probes: the machine's serial number (SMBIOS), word ``probes=a,b``. The word
``stay`` leaves the machine on.
"""

from __future__ import annotations

import base64
import json
import os
import pwd
import socket
import subprocess
import termios
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANNEL = Path("/dev/ttyS1")
PRODUCT = Path("/sys/class/dmi/id/product_serial")
TSM = Path("/sys/kernel/config/tsm/report")
NODES = (Path("/dev/sev-guest"), Path("/dev/tdx_guest"))
BOOT_REPORT = Path("/run/tee-agent/boot.json")
SOCKET = "/run/tee-agent/agent.sock"
PAYLOAD = b"what alice releases\n"
SETTLE_SECONDS = 60
MARKS = Path("/run/vm-marks")
UNITS = {
    "login": "serial-getty@ttyS0.service",
    "socket": "tee-agent.socket",
    "quoter": "tee-agent-quoter.service",
    "fetcher": "tee-agent-fetcher.service",
    "READY": "tee-agent-signer.service",
    "multi-user": "multi-user.target",
}
Facts = dict[str, Any]


def run(*argv: str, user: str = "", stdin: bytes = b"", seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    """A command's end, whatever it is. ``user``: with this user's own groups and nothing of root's."""
    drop = ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups") if user else ()
    return subprocess.run([*drop, *argv], input=stdin, capture_output=True, timeout=seconds, check=False)


def root_facts() -> Facts:
    """What / lies on."""
    source = run("findmnt", "--noheadings", "--output", "SOURCE", "/").stdout.decode().strip()
    device = Path("/sys/class/block") / Path(source).resolve().name
    name, uuid = device / "dm/name", device / "dm/uuid"
    below = [path.name for path in (device / "slaves").iterdir()] if (device / "slaves").is_dir() else []
    return {
        "source": source,
        "mapped": name.read_text().strip() if name.exists() else "",
        "kind": uuid.read_text().split("-")[0] if uuid.exists() else "",
        "on": [serial(disk) for disk in below],
    }


def serial(disk: str) -> str:
    path = Path("/sys/class/block") / disk / "serial"
    return path.read_text().strip() if path.exists() else disk


def boot_facts() -> Facts:
    """What early boot left, and what of the machine's boot only the kernel and systemd know."""
    mode = f"{BOOT_REPORT.stat().st_mode & 0o7777:o}" if BOOT_REPORT.exists() else ""
    return {
        "report": json.loads(BOOT_REPORT.read_text()) if BOOT_REPORT.exists() else None,
        "mode": mode,
        "headers_left": [str(path) for path in Path("/run").rglob("*") if is_header(path)],
        "cmdline": Path("/proc/cmdline").read_text().strip(),
        "tsm": TSM.is_dir(),
        "provider": provider(),
        "nodes": {str(path): f"{path.stat().st_mode & 0o7777:o}" for path in NODES if path.is_char_device()},
    }


def provider() -> str:
    """Of configfs-tsm, where something stands behind it."""
    entry = TSM / "judge"
    try:
        entry.mkdir()
    except OSError:
        return ""
    try:
        return (entry / "provider").read_text().strip()
    finally:
        entry.rmdir()


def is_header(path: Path) -> bool:
    """Whether it is a copy of a LUKS header."""
    if not path.is_file() or "simulator" in path.parts:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"LUKS"


def times() -> Facts:
    """Seconds since the kernel's start."""
    found = {path.name: float(path.read_text()) for path in MARKS.glob("*")}
    found["systemd"] = stamp("", "UserspaceTimestampMonotonic")
    found |= {name: stamp(unit, "ActiveEnterTimestampMonotonic") for name, unit in UNITS.items()}
    return found


def stamp(unit: str, name: str) -> float:
    words = ("systemctl", "show", "--value", f"--property={name}", *([unit] if unit else []))
    text = run(*words).stdout.decode().strip()
    return int(text) / 1e6 if text.isdigit() else 0.0


def login() -> Facts:
    """Whether somebody could log in on the console."""
    state = run("systemctl", "is-active", "serial-getty@ttyS0.service").stdout.decode().strip()
    return {"getty": state, "failed": failed_units()}


def failed_units() -> list[str]:
    listed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout.decode()
    return [line.split()[0] for line in listed.splitlines()]


def status() -> Facts:
    """`tee-agent status`, to a program."""
    done = run("tee-agent", "status", "--json")
    return {"exit": done.returncode, "stderr": done.stderr.decode(), "said": json.loads(done.stdout or b"null")}


def installed() -> Facts:
    """What dpkg has of ours."""
    listed = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", "tee-agent*").stdout.decode()
    return {"packages": sorted(line for line in listed.splitlines() if line.endswith(" installed"))}


def sign() -> Facts:
    """A permitted user's bundle, a stranger's refusal, and noise on the socket in between."""
    serving = wait_for_socket()
    first = curl("alice")
    refused = curl("mallory")
    noise = [half_request(), garbage(), killed_client()]
    again = curl("alice")
    return {
        "serving": serving,
        "groups": run("id", "--name", "--groups", user="alice").stdout.decode().split(),
        "permitted": first[0],
        "bundle": base64.b64encode(first[1]).decode(),
        "payload": base64.b64encode(PAYLOAD).decode(),
        "stranger": refused[0],
        "noise": noise,
        "permitted_after_noise": again[0],
    }


def wait_for_socket() -> bool:
    end = time.monotonic() + SETTLE_SECONDS
    while not Path(SOCKET).exists() and time.monotonic() < end:
        time.sleep(0.2)
    return Path(SOCKET).exists()


def curl(user: str) -> tuple[str, bytes]:
    """Status and body of POST /v1/sign."""
    words = ("curl", "--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}")
    done = run(*words, "--unix-socket", SOCKET, "--data-binary", "@-", "http://agent/v1/sign", user=user, stdin=PAYLOAD)
    body, _, code = done.stdout.rpartition(b"\n")
    return f"{code.decode()}{done.stderr.decode()}", body


def half_request() -> str:
    """A request that never ends, and a connection that is left open over it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        connection.sendall(b"POST /v1/sign HTTP/1.1\r\nHost: agent\r\nContent-Length: 100\r\n\r\nhalf")
        return curl("alice")[0]


def garbage() -> str:
    """nc with bytes that are no HTTP."""
    run("nc", "-N", "-w", "5", "-U", SOCKET, stdin=os.urandom(4096))
    return curl("alice")[0]


def killed_client() -> str:
    """A client that dies in the middle of its upload."""
    words = ("curl", "--silent", "--unix-socket", SOCKET, "--data-binary", "@/dev/zero", "http://agent/v1/sign")
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as client:
        time.sleep(0.5)
        client.kill()
    return curl("alice")[0]


def journal() -> Facts:
    """What the units of ours wrote to the journal in this boot."""
    lines = run("journalctl", "--boot", "--output=cat", "--unit=tee-agent*").stdout.decode(errors="replace")
    return {"lines": lines.splitlines()[-200:]}


PROBES: dict[str, Callable[[], Facts]] = {
    "root": root_facts,
    "boot": boot_facts,
    "login": login,
    "installed": installed,
    "status": status,
    "sign": sign,
    "journal": journal,
    "times": times,
}


def probe(name: str) -> Facts:
    try:
        return PROBES[name]()
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def report(facts: Facts) -> None:
    """One line on the second serial port, as it is: no echo, no newline games."""
    with CHANNEL.open("r+b", buffering=0) as line:
        tty.setraw(line.fileno(), termios.TCSANOW)
        data = json.dumps(facts).encode() + b"\n"
        while data:
            data = data[line.write(data) :]
        termios.tcdrain(line.fileno())


def main() -> None:
    words = PRODUCT.read_text().split()
    names = next((word.removeprefix("probes=") for word in words if word.startswith("probes=")), "root,login")
    if names != "none":
        report({name: probe(name) for name in names.split(",")})
        run("systemctl", "poweroff", "--force", "--force")


if __name__ == "__main__":
    main()
