"""`tas audit heads`: the heads of agents' audit logs that this service holds, and what contradicts what."""

from __future__ import annotations

from argparse import Namespace

from tas import state as states
from tas.admin import say, table
from tas.headstore import Head, HeadStore


def heads(args: Namespace) -> int:
    """Oldest first. Returns 0, whatever they say."""
    state = states.open_existing(args.state)
    store = HeadStore(state.database)
    try:
        found = store.heads(boot_id=args.boot_id, alerts=args.alerts)
        total, alerts = store.count()
    finally:
        store.close()
    facts = {"heads": [head.to_json() for head in found], "kept": total, "alerts": alerts}
    say(args, facts, table([_row(head) for head in found]) + "".join(_alarm(head) for head in found if head.alert))
    return 0


def _row(head: Head) -> dict[str, str]:
    return {
        "received": head.received,
        "boot": head.boot_id,
        "record": "-" if head.seq is None else str(head.seq),
        "head": head.head[:16] or "no log",
        "key": str(head.facts["key_id"])[:16],
        "use": str(head.facts["use"]),
        "client": head.client,
        "alert": "ALERT" if head.alert else "",
    }


def _alarm(head: Head) -> str:
    return f"ALERT  boot {head.boot_id}, statement {head.statement[:16]}: {head.alert}\n"
