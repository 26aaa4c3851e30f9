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
        found = store.heads(boot_id=args.boot_id, machine=args.machine, alerts=args.alerts)
        total, alerts = store.count()
        shared = store.shared_boots()
    finally:
        store.close()
    facts = {"heads": [head.to_json() for head in found], "kept": total, "alerts": alerts, "shared_boots": shared}
    alarming = [head for head in found if head.alert]
    told = [f"ALERT  boot {head.boot_id}, statement {head.statement[:16]}: {head.alert}" for head in alarming]
    told += [f"warning  more than one machine names boot {boot}: a copy, or all but one lie" for boot in shared]
    say(args, facts, table([_row(head) for head in found]) + "".join(f"{line}\n" for line in told))
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
        "machine": head.machine.partition(":")[2][:16] or "-",
        "alert": "ALERT" if head.alert else "",
    }
