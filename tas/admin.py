"""What an admin does: init, secrets, policies. Works on the state directory, also while the server runs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.core.errors import Conflict, FormatError, TeeAgentError, UsageError
from agent.verify import policysign
from agent.verify.files import read_file
from tas import policies, tls
from tas import state as states
from tas.state import State
from tas.store import Store

MAX_POLICY = 1 << 16
_NO_KEYS = "no key is trusted for policies (--policy-trust)"


class NoSuch(TeeAgentError):
    """A policy or secret that was named is not there."""

    code = "no-such"
    exit_status = 66


def init(args: Namespace) -> int:
    state = states.create(args.state, tuple(args.name))
    Store(state.database).close()
    pin = tls.spki_pin(states.read_file(state.tls_cert))
    facts = {"state": str(state.folder), "pin": pin, "api_key_file": str(state.api_key)}
    say(args, facts, f"state    {state.folder}\npin      {pin}\nAPI key  in {state.api_key}\n")
    return 0


def secret_create(args: Namespace) -> int:
    with opened(args.state) as (_, store):
        store.create_secret(args.key_id, args.bytes)
    say(args, {"key_id": args.key_id, "bytes": args.bytes}, f"made {args.key_id}: {args.bytes} random bytes\n")
    return 0


def secret_list(args: Namespace) -> int:
    with opened(args.state) as (_, store):
        rows = [{"key_id": item.key_id, "bytes": item.size, "created": item.created} for item in store.secrets()]
    say(args, {"secrets": rows}, table(rows))
    return 0


def secret_delete(args: Namespace) -> int:
    """Refused while a policy names the secret, and without --yes: nothing brings it back."""
    if not args.yes:
        raise UsageError(f"deleting {args.key_id!r} is for ever", hint="say --yes if that is meant")
    with opened(args.state) as (_, store):
        users = [item.policy_id for item in policies.summaries(store) if item.key_id == args.key_id]
        if users:
            raise Conflict(f"policy {users[0]!r} releases {args.key_id!r}", hint="delete the policy first")
        if not store.delete_secret(args.key_id):
            raise NoSuch(f"there is no secret {args.key_id!r}", hint="tas secret list shows all")
    say(args, {"deleted": args.key_id}, f"deleted {args.key_id}\n")
    return 0


def policy_put(args: Namespace) -> int:
    document = _read_policy(args.file)
    warnings = []
    with opened(args.state) as (_, store):
        keys = policies.known_keys(store, args.policy_trust)
        policies.require_trust(keys, required=args.require_signed_policies)
        policy = policies.parse(document, keys)
        if not policy.signer:
            signed = "signature" in policy.document
            warnings.append(
                f"the policy {'is signed, and nobody checked it' if signed else 'is not signed'}: {_NO_KEYS}"
            )
        store.put_policy(policy.policy_id, document, replace=args.replace)
        if policy.key_id not in {item.key_id for item in store.secrets()}:
            warnings.append(f"there is no secret {policy.key_id!r} yet: tas secret create {policy.key_id}")
    facts = {"policy_id": policy.policy_id, "key_id": policy.key_id, "signer": policy.signer, "warnings": warnings}
    by = f", signed by {policy.signer}" if policy.signer else ""
    lines = [f"stored {policy.policy_id}: releases {policy.key_id}{by}", *(f"warning: {text}" for text in warnings)]
    say(args, facts, "\n".join(lines) + "\n")
    return 0


def policy_sign(args: Namespace) -> int:
    """Prints the policy with a new signature; what is signed must be a policy that can be put."""
    policy = policies.parse(_read_policy(args.file))
    signed = policysign.signed(policy.document, read_file(str(args.key), policysign.MAX_FILE))
    sys.stdout.write(json.dumps(signed, indent=2) + "\n")
    return 0


def policy_list(args: Namespace) -> int:
    with opened(args.state) as (_, store):
        rows = [asdict(item) for item in policies.summaries(store)]
    say(args, {"policies": rows}, table(rows))
    return 0


def policy_show(args: Namespace) -> int:
    with opened(args.state) as (_, store):
        stored = store.policy(args.policy_id)
    if stored is None:
        raise _no_policy(args.policy_id)
    document = json.loads(stored.document)
    say(args, document, json.dumps(document, indent=2) + "\n")
    return 0


def policy_delete(args: Namespace) -> int:
    with opened(args.state) as (_, store):
        if not store.delete_policy(args.policy_id):
            raise _no_policy(args.policy_id)
    say(args, {"deleted": args.policy_id}, f"deleted {args.policy_id}\n")
    return 0


@contextmanager
def opened(folder: Path) -> Iterator[tuple[State, Store]]:
    """An existing state and its database. Raises ConfigError."""
    state = states.open_existing(folder)
    store = Store(state.database)
    try:
        yield state, store
    finally:
        store.close()


def say(args: Namespace, facts: Mapping[str, Any], text: str) -> None:
    """One JSON document with --json, else the text."""
    sys.stdout.write(json.dumps(facts, indent=2) + "\n" if args.json else text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns under their names; "none" without rows."""
    if not rows:
        return "none\n"
    head = list(rows[0])
    cells = [head, *([str(row[name]) for name in head] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines) + "\n"


def _read_policy(name: str) -> str:
    try:
        return read_file(name, MAX_POLICY).decode()
    except UnicodeDecodeError as exc:
        raise FormatError(f"{name}: not UTF-8", record="policy", code="format.policy") from exc


def _no_policy(policy_id: str) -> NoSuch:
    return NoSuch(f"there is no policy {policy_id!r}", hint="tas policy list shows all")
