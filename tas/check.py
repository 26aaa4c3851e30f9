"""`tas check`: what this service believes in and would release, and what is wrong with it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.core.errors import TeeAgentError
from agent.verify.evidence import genuine_anchors
from agent.verify.inventory import inventory, warnings
from agent.verify.policysign import PolicyKey
from agent.verify.shelf import Shelf
from tas import policies, tls
from tas import state as states
from tas.admin import opened, say, table
from tas.headstore import HeadStore
from tas.store import Store

NOT_HEALTHY = 78
_AT_REST = "secrets are not encrypted in the database: guard the disk and the backups of this machine"


def check(args: Namespace) -> int:
    """Exit status 78 if some policy can't release its secret, else 0."""
    with opened(args.state) as (state, store):
        serving = store.serving()
        keys, unreadable = _policy_keys(store)
        facts: dict[str, Any] = {
            "state": str(state.folder),
            "running": state.is_served(),
            "server": {name: value for name, value in (serving or {}).items() if name != "roots"},
            "pin": tls.spki_pin(states.read_file(state.tls_cert)),
            "roots": serving["roots"] if serving else _genuine(),
            "policies": [asdict(item) for item in policies.summaries(store, keys)],
            "secrets": len(store.secrets()),
        }
    facts["audit_heads"] = _audit_heads(args.state)
    held, late, unreadable_folder = _endorsements(facts["server"].get("endorsements", ""))
    facts["endorsements"] = held
    facts["problems"] = (
        unreadable
        + unreadable_folder
        + [f"policy {item['policy_id']}: {item['problem']}" for item in facts["policies"] if item["problem"]]
    )
    facts["warnings"] = _warnings(facts) + late
    say(args, facts, _screen(facts))
    return NOT_HEALTHY if facts["problems"] else 0


def _audit_heads(folder: Path) -> dict[str, int]:
    store = HeadStore(states.open_existing(folder).database)
    try:
        total, alerts = store.count()
    finally:
        store.close()
    return {"kept": total, "alerts": alerts}


def _policy_keys(store: Store) -> tuple[tuple[PolicyKey, ...], list[str]]:
    """The keys of the server's last start as they are now, or the problem with them."""
    try:
        return policies.known_keys(store), []
    except TeeAgentError as exc:
        return (), [f"keys of --policy-trust: {exc.message}"]


def _endorsements(folder: str) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """What the server's folder holds now, what of it is late, and why it can't be loaded."""
    if not folder:
        return [], [], []
    at = datetime.now(UTC)
    try:
        rows = inventory(Path(folder))
        Shelf.load(Path(folder))
    except TeeAgentError as exc:
        return [], [], [f"endorsements: {exc.message}"]
    return [row.to_json(at) for row in rows], [f"endorsements: {text}" for text in warnings(rows, at)], []


def _genuine() -> list[dict[str, Any]]:
    return [
        {"name": anchor.name, "spki_sha256": anchor.spki_sha256.hex(), "genuine": anchor.genuine}
        for anchor in genuine_anchors()
    ]


def _warnings(facts: dict[str, Any]) -> list[str]:
    found = [
        f"added trust root {root['name']}: evidence under it is accepted, and marked added-root"
        for root in facts["roots"]
        if not root["genuine"]
    ]
    server = facts["server"]
    if server.get("unchecked_revocation"):
        found.append("revocation may go unchecked: --allow-unchecked-revocation is on")
    elif server and not server["crls"]:
        found.append("no CRL is loaded: all evidence is refused; see --endorsements")
    if server and not server.get("policy_keys"):
        found.append("policies are not verified by signature: --policy-trust names no key")
    if alerts := facts["audit_heads"]["alerts"]:
        found.append(f"{alerts} audit heads contradict earlier ones: tas audit heads --alerts")
    if not facts["policies"]:
        found.append("there is no policy: nothing is released")
    if facts["secrets"]:
        found.append(_AT_REST)
    return found


def _held(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ends, one by one; certificates by their number only: a fleet has thousands."""
    shown = [
        {"statement": row["kind"], "about": row["about"], "until": (row["ends"] or "-")[:10], "state": row["state"]}
        for row in rows
        if row["kind"] in ("CRL", "TCB info", "QE identity")
    ]
    number = len(rows) - len(shown)
    return [*shown, {"statement": "certificates", "about": str(number), "until": "", "state": ""}]


def _screen(facts: dict[str, Any]) -> str:
    server = facts["server"]
    state = "running" if facts["running"] else "not running"
    since = f", last start {server['since']} on {server['url']}" if server else ", never started"
    roots = [
        {"root": root["name"], "kind": "genuine" if root["genuine"] else "ADDED", "spki sha256": root["spki_sha256"]}
        for root in facts["roots"]
    ]
    shown = [{key: item[key] for key in ("policy_id", "policy_type", "key_id", "stored")} for item in facts["policies"]]
    lines = [f"state    {facts['state']}", f"server   {state}{since}", f"pin      {facts['pin']}"]
    lines += [f"secrets  {facts['secrets']}", "", table(roots), "policies:", table(shown)]
    lines += ["endorsements:", table(_held(facts["endorsements"]))] if facts["endorsements"] else []
    lines += [f"PROBLEM  {text}" for text in facts["problems"]]
    lines += [f"warning  {text}" for text in facts["warnings"]]
    return "\n".join(lines) + "\n"
