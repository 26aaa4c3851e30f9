"""`tee-agent policy explain`: which rule of the access policy decides for a caller, and why the others do not.

Reads the files as they are; a running daemon has them as they were at its start or last reload.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import rulefiles
from agent.core.access import OPERATIONS, Explanation, Rules, Who, Wish
from agent.core.accessrule import AGENT_KEY, APPLIES
from agent.core.canonical import printable
from agent.core.config import Config
from agent.core.errors import Denied, UsageError
from agent.daemon.guard import who_of
from agent.daemon.peers import of_process

HELP = "which rule decides what an application may do at the socket, and why"
NOBODY = -1
"""For a unit without --user: no user's id, so no rule that names users matches."""
_NOT_GIVEN = {"keys": "not given: the agent's key and the caller's own", "secrets": "not given: no secret"}
"""What an allow rule without the selector covers."""
_WISH = ("key", "use", "format", "context", "audience", "secret")
_PERSISTENT = "persistent"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this action's arguments."""
    parser.add_argument("operation", choices=OPERATIONS, metavar="OPERATION", help=", ".join(OPERATIONS))
    caller = parser.add_argument_group("the caller")
    caller.add_argument("--pid", type=int, metavar="N", help="this process, as the agent would see it now")
    caller.add_argument("--user", metavar="U", help="name or id; with the groups of its account")
    caller.add_argument("--group", action="append", default=[], metavar="G", help="one more group; may be repeated")
    caller.add_argument("--unit", default="", metavar="UNIT", help="systemd unit, e.g. web.service")
    caller.add_argument("--container", default="", metavar="ID", help="container, its whole id")
    wish = parser.add_argument_group("the request")
    wish.add_argument("--key", default="", metavar="K", help="NAMESPACE/NAME, or NAME (default: the agent's own key)")
    for name in _WISH[1:]:
        wish.add_argument(f"--{name}", default="", metavar=name[0].upper())
    wish.add_argument(f"--{_PERSISTENT}", action="store_true", help="keys.create: one that stays over restarts")


def run(args: argparse.Namespace, config: Config) -> int:
    """Returns 0 where it is allowed, 77 where not. Raises ConfigError, UsageError, Denied."""
    who = _process(args) if args.pid is not None else _described(args)
    wish = Wish(args.operation, **{name: getattr(args, name) for name in (*_WISH, _PERSISTENT)})
    rules = rulefiles.load(config)
    found = rules.explain(who, wish)
    if args.json:
        sys.stdout.write(json.dumps(_document(rules, who, wish, found), indent=2) + "\n")
    elif not (args.quiet and found.decision.allowed):
        sys.stdout.write("".join(f"{printable(line)}\n" for line in _lines(rules, who, wish, found)))
    return 0 if found.decision.allowed else Denied.exit_status


def _process(args: argparse.Namespace) -> Who:
    if args.user or args.group or args.unit or args.container:
        raise UsageError("--pid says who it is: leave --user, --group, --unit and --container out")
    if not Path(f"/proc/{args.pid}").is_dir():
        raise Denied(
            f"there is no process {args.pid}",
            hint="it may have exited: give --user and --unit instead",
            code="denied.peer",
        )
    caller = of_process(args.pid, Path("/proc"))
    if os.geteuid() not in (0, caller.uid):
        raise Denied(f"process {args.pid} is another user's", hint="ask as root", code="denied.peer")
    return who_of(caller)


def _described(args: argparse.Namespace) -> Who:
    if not (args.user or args.unit):
        raise UsageError("whose request? give --pid N, --user U or --unit UNIT")
    uid, gid, groups = _account(args.user) if args.user else (NOBODY, NOBODY, frozenset())
    more = frozenset(_id("group", name, rulefiles.group_id(name)) for name in args.group)
    return Who(uid, gid, groups | more, args.unit, args.container)


def _account(name: str) -> tuple[int, int, frozenset[int]]:
    """uid, gid and groups after a login. An id without an account has the group of the same number."""
    uid = _id("user", name, rulefiles.user_id(name))
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return uid, uid, frozenset()
    return uid, entry.pw_gid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))


def _id(kind: str, name: str, found: int | None) -> int:
    if found is not None:
        return found
    if not (name.isascii() and name.isdecimal() and int(name) < 1 << 32):
        raise UsageError(f"there is no {kind} {name[:40]!r} on this machine")
    return int(name)


def _document(rules: Rules, who: Who, wish: Wish, found: Explanation) -> dict[str, Any]:
    caller = {**asdict(who), "groups": sorted(who.groups)}
    if who.uid == NOBODY:
        caller |= {"uid": None, "gid": None}
    namespace = found.decision.namespace
    unsaid = _unsaid(who, namespace)
    return {
        **asdict(found.decision),
        "namespace": None if unsaid else namespace,
        "file": found.source,
        "caller": caller,
        "request": {**asdict(wish), "key": wish.key if unsaid else wish.full_key(namespace)},
        "passed_over": [asdict(each) for each in found.passed],
        "notes": _notes(rules, who),
    }


def _unsaid(who: Who, namespace: str) -> bool:
    """No user was given, and the namespace would be that user's own."""
    return who.uid == NOBODY and namespace == who.own_namespace


def _notes(rules: Rules, who: Who) -> list[str]:
    notes = list(rules.notes)
    if who.uid == NOBODY:
        notes.append("without --user, rules that name users or groups do not match; and root would be allowed")
    return notes


def _lines(rules: Rules, who: Who, wish: Wish, found: Explanation) -> list[str]:
    decision, verdict = found.decision, "allowed" if found.decision.allowed else "denied"
    lines = [f"{verdict}: {decision.reason}", f"caller: {_caller(who)}"]
    if not _unsaid(who, decision.namespace):
        lines.append(f"keys of its own: {decision.namespace}/")
    key = wish.key if _unsaid(who, decision.namespace) else wish.full_key(decision.namespace)
    lines.append(f"request: {_request(wish, key)}")
    for one in found.passed:
        values = ", ".join(one.values) or _NOT_GIVEN.get(one.selector, "")
        lines.append(f"passed over: rule {one.rule} in {one.source}: {one.selector}: {values}")
    return [*lines, *(f"note: {note}" for note in _notes(rules, who))]


def _caller(who: Who) -> str:
    if who.uid == NOBODY:
        return f"unit {who.unit}, no user given"
    groups = ", ".join(map(str, sorted(who.groups | {who.gid})))
    return f"{who}, groups {groups}" + ("" if who.groups_known else " and more than can be read")


def _request(wish: Wish, key: str) -> str:
    parts = [wish.operation]
    if "keys" in APPLIES[wish.operation]:
        parts.append(f"key {key or AGENT_KEY}")
    parts += [f"{name} {getattr(wish, name)!r}" for name in _WISH[1:] if getattr(wish, name)]
    return ", ".join([*parts, _PERSISTENT] if wish.persistent else parts)
