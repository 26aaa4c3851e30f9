"""What can be wrong with a configuration that is valid: files, modes, unsafe values, the live service, the volumes.

``Finding`` is agent.core.health's: ok, note or PROBLEM. Nothing here needs evidence or fetches a secret.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from agent import rulefiles, session
from agent.admin import image, volumes
from agent.core import crypttab, ports
from agent.core.config import Config, TasConfig, VolumeConfig
from agent.core.errors import ConfigError, PermissionMissing, TeeAgentError, TlsError, TransportError
from agent.core.health import Finding, State
from agent.daemon import privileges
from agent.daemon.names import QUOTER, socket_path
from agent.daemon.remote import RemoteQuoter
from agent.deadline import Deadline
from agent.disk import pin
from agent.disk.device import opened
from agent.disk.listing import list_volumes

SERVICE_SECONDS = 15.0
IMAGE_SECONDS = 300.0
ROOT = 0
_IMAGE_STATES: dict[str, State] = {"current": "ok", "stale": "PROBLEM", "not installed": "note", "unknown": "note"}


def findings(config: Config) -> Iterator[Finding]:
    """Everything there is to say about ``config``, in the order of the screen."""
    yield from files(config)
    yield from values(config)
    yield from access(config)
    yield service(config, Deadline(SERVICE_SECONDS, "attestation service"))
    table = volumes.entries()
    for one in config.volumes:
        yield volume(one, table)
    yield initramfs(image.look(config, Deadline(IMAGE_SECONDS, "unpacking the initramfs")))


def files(config: Config) -> Iterator[Finding]:
    """The configuration and the files it names: there, of use, and nobody's but root's to write."""
    yield _file(Path(config.source), "configuration", "valid")
    if config.tas is None:
        return
    path = config.tas.api_key_file
    try:
        session.read_api_key(path)
        session.open_transport(config.tas)
    except TeeAgentError as error:
        yield Finding("files", "PROBLEM", error.message, error.hint)
        return
    yield _file(path, "API key", "there")
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        yield Finding("API key", "note", "not only root can read it", f"chmod 600 {path}")
    if config.tas.ca_file is not None:
        yield _file(config.tas.ca_file, "CA file", "has the pinned authority")


def _file(path: Path, subject: str, good: str) -> Finding:
    seen = path.stat()
    if seen.st_uid != ROOT or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Finding(
            subject, "PROBLEM", f"{path}: others than root may change it", f"chown root {path}; chmod go-w {path}"
        )
    return Finding(subject, "ok", f"{path}: {good}")


def values(config: Config) -> Iterator[Finding]:
    """Values that are allowed, but should be meant."""
    if config.tas is None:
        yield Finding("[tas]", "note", "no service: no secrets, no disk unlock", "tee-agent setup --url URL")
    if not config.boot.root_check:
        text = "root_check is off: early boot enters a root that it did not open"
        yield Finding("[boot]", "PROBLEM", text, "remove root_check")
    for one in config.volumes:
        if not one.device.startswith("UUID="):
            text = f"named by path ({one.device}): a disk exchanged for another bound one is not noticed"
            yield Finding(f"volume {one.name}", "note", text, 'prefer device = "UUID=..."')
        if one.fallback == "prompt" and one.volume_key is None:
            text = "a typed passphrase may open any volume that is put in its place: volume_key pins none"
            yield Finding(f"volume {one.name}", "note", text, f"tee-agent setup --volume {one.name}=DEVICE pins it")


def access(config: Config) -> Iterator[Finding]:
    """The rules of policy.d: valid, root's, and to be read by the signer's user."""
    folder = rulefiles.folder_of(config)
    try:
        rules = rulefiles.load(config)
        if rules.rules:
            rulefiles.require_readable(folder, privileges.find_user(config.daemon.signer_user, "signer_user"))
    except ConfigError as error:
        yield Finding("access policy", "PROBLEM", error.message, error.hint)
        return
    for note in rules.notes:
        yield Finding("access policy", "note", note)
    if rules.rules:
        yield Finding("access policy", "ok", f"{folder}: {len(rules.rules)} rules, and nobody else but root")
    else:
        text = f"no rules in {folder}: [daemon] allow_users and allow_groups decide"
        yield Finding("access policy", "ok", text)


def service(config: Config, deadline: ports.Deadline) -> Finding:
    """The service under its pins, and whether the API key is good."""
    if config.tas is None:
        return Finding("TAS", "note", "none configured")
    try:
        version = asked(config, deadline)
    except (TlsError, ConfigError) as error:
        return Finding("TAS", "PROBLEM", error.message, error.hint)
    except TransportError as error:
        return Finding("TAS", "note", f"not reached: {error.message}", error.hint)
    except TeeAgentError as error:
        return Finding("TAS", "PROBLEM", error.message, error.hint)
    return Finding("TAS", "ok", f"{config.tas.url} answers, version {version}, {_believed(config.tas)}")


def asked(config: Config, deadline: ports.Deadline) -> str:
    quotes = RemoteQuoter(socket_path(config.daemon.runtime_dir, QUOTER))  # never asked: no evidence is needed
    client = session.open_tas(config, quotes=quotes)
    version = client.version(deadline)
    client.nonce(deadline)
    return version


def _believed(tas: TasConfig) -> str:
    pins = f"under {len(tas.pins)} pin{'s' if len(tas.pins) > 1 else ''}" if tas.pins else "over plain http"
    return f"{pins}; the API key is good"


def volume(one: VolumeConfig, table: tuple[crypttab.Entry, ...]) -> Finding:
    """Its device, header, pin, and its name in crypttab. No secret is needed."""
    subject = f"volume {one.name}"
    try:
        with opened(one.device) as device:
            header, path = device.header(), device.path
        pin.verify(one, header)
    except PermissionMissing as error:
        return Finding(subject, "note", error.message, error.hint)
    except TeeAgentError as error:
        return Finding(subject, "PROBLEM", error.message, error.hint)
    for entry in table:
        if entry.name != one.name and volumes.meant(entry.source) == path:
            text = f"/etc/crypttab calls {path} {entry.name}: early boot goes by that name"
            return Finding(subject, "PROBLEM", text, f'name = "{entry.name}"')
    return _binding(one, subject)


def _binding(one: VolumeConfig, subject: str) -> Finding:
    """What the header says of the binding; ``preflight`` proves it."""
    (listed,) = list_volumes((one,))
    there = f"{one.device} is there, its header is in order"
    bind = f"tee-agent disk bind {one.name}"
    if listed.state == "bound" and listed.key_id in one.policy_ids:
        return Finding(subject, "ok", f"{there}; bound with policy {listed.key_id}")
    if listed.state == "bound":
        text = f"{there}; bound with policy {listed.key_id}, which policy_ids does not name"
        return Finding(subject, "PROBLEM", text, f"name it in policy_ids, or: tee-agent disk unbind {one.name}, {bind}")
    return Finding(subject, "note" if listed.state == "not bound" else "PROBLEM", f"{there}; {listed.state}", bind)


def initramfs(looked: image.Looked) -> Finding:
    """Stale is a problem; what can't be seen is told."""
    hint = "update-initramfs -u" if looked.state == "stale" else ""
    return Finding("initramfs", _IMAGE_STATES[looked.state], f"{looked.state}: {looked.text}", hint)
