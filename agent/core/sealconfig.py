"""The `[sealing]` and `[secrets.NAME]` tables of the configuration: what the running agent gets from the service.

A policy id releases one secret to one purpose. What opens a volume must never reach an application, nor become the
root of what applications seal: an id that is used twice is refused here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from agent.core import checks
from agent.core.checks import At

if TYPE_CHECKING:
    from agent.core.config import Config

MAX_SECRETS = 64
RESERVED = "sealing"
"""What the release of the sealing root is called."""


@dataclass(frozen=True, slots=True)
class SealingConfig:
    """What sealed data and persistent keys are encrypted under. ``policy_id`` is set for ``tas``, and only there."""

    root: Literal["none", "tas", "snp-derived"] = "none"
    policy_id: str | None = None


@dataclass(frozen=True, slots=True)
class SecretConfig:
    """A secret for applications; the access policy says which."""

    name: str
    policy_id: str


SEALING_ROWS: Mapping[str, tuple[Callable[[Any, At], Any], str]] = {
    "root": (
        checks.choice("none", "tas", "snp-derived"),
        "where the key comes from that sealed data is encrypted under",
    ),
    "policy_id": (checks.policy_id, "policy that releases it, for `tas`"),
}
SECRET_ROWS: Mapping[str, tuple[Callable[[Any, At], Any], str]] = {
    "policy_id": (checks.policy_id, "policy that releases the secret"),
}


def secrets(value: Any, table: Callable[[Any, At], dict[str, Any]], source: str) -> tuple[SecretConfig, ...]:
    """``[secrets.NAME]``, each read by ``table``, in the order of the file. Raises ConfigError."""
    at = At(source, "secrets")
    if not isinstance(value, dict) or len(value) > MAX_SECRETS:
        raise at.refuse(f"must be at most {MAX_SECRETS} tables ([secrets.NAME])", code="config.type")
    for name in value:
        if checks.name(name, at.under(name)) == RESERVED:
            raise at.under(name).refuse(f"{RESERVED} is no name for a secret: the agent's own is called so")
    return tuple(SecretConfig(name, **table(one, at.under(name))) for name, one in value.items())


def releases(sealing: SealingConfig, secrets: tuple[SecretConfig, ...]) -> Mapping[str, str]:
    """What the running agent may have released, with its policy id: RESERVED, and the secrets by their names."""
    root = {RESERVED: sealing.policy_id} if sealing.policy_id else {}
    return {**root, **{one.name: one.policy_id for one in secrets}}


def require_consistent(config: Config) -> None:
    """What must hold between tables. Raises ConfigError."""
    _require_sealing(config)
    wanted = releases(config.sealing, config.secrets)
    if wanted and config.tas is None:
        raise At(config.source, _place(next(iter(wanted)))).refuse(
            "there is no [tas] section: no service to release it", code="config.missing"
        )
    if wanted and config.daemon.signer_user == config.daemon.fetcher_user:
        raise At(config.source, "daemon.fetcher_user").refuse(
            "must differ from signer_user, which is to get secrets without the one that has the network",
            code="config.unsafe",
        )
    used = {policy_id: f"volume {one.name}" for one in config.volumes for policy_id in one.policy_ids}
    for name, policy_id in wanted.items():
        if policy_id in used:
            raise At(config.source, f"{_place(name)}.policy_id").refuse(
                f"{policy_id} is the policy of {used[policy_id]} already",
                hint="a secret and a policy of its own: tas secret create, tas policy put",
                code="config.policy-id",
            )
        used[policy_id] = f"[{_place(name)}]"


def _require_sealing(config: Config) -> None:
    at = At(config.source, "sealing.policy_id")
    if config.sealing.root == "tas" and not config.sealing.policy_id:
        raise at.refuse('is required with root = "tas"', code="config.missing")
    if config.sealing.root != "tas" and config.sealing.policy_id:
        raise at.refuse('means nothing without root = "tas"')


def _place(name: str) -> str:
    return "sealing" if name == RESERVED else f"secrets.{name}"
