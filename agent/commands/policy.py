"""`tee-agent policy draft | predict | tighten`: the policy under which a service gives this machine its secret.

`tee-agent policy explain` is about the other policy, the agent's own: who may do what with its keys.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import settings
from agent.admin import explain, files, inputs, policies
from agent.admin.predict import Outlook
from agent.core.config import Config
from agent.core.draft import UP_TO_DATE
from agent.core.model import Tee
from agent.core.policy import MAX_BYTES, Policy
from agent.core.tcbrule import TCB_ORDER
from agent.core.widen import widened
from agent.verify.files import read_file

HELP = "Draft a policy for this machine, predict the next boot, tighten after it."
POLICY_MODE = 0o644

_EXAMPLE = """examples:
  tee-agent policy draft --key-id root-disk --policy-id web-1 -o web-1.json
  tas policy put web-1.json          # on the service's machine
  tee-agent policy predict --policy web-1.json
  tee-agent policy predict --ovmf OVMF.amdsev.fd --kernel vmlinuz --initrd initrd.img \\
      --append "root=/dev/vda1 ro" --vcpus 4 --vcpu-type EPYC-v4
  tee-agent policy tighten web-1.json
  tee-agent policy explain --unit web.service --user www-data sign --use jws
"""
_ACCEPTABLE = TCB_ORDER[2:]
"""The other two no service accepts."""
_OUTPUT = "default: standard output"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="draft | predict | tighten | explain", required=True)
    drafting = actions.add_parser("draft", help="a policy that accepts what is running here, and what boots next")
    _add_draft(drafting)
    predicting = actions.add_parser("predict", help="what the next boot will measure")
    predicting.add_argument("--policy", type=Path, metavar="FILE", help="add it to this policy, as an alternative")
    inputs.add_running(predicting)
    for action in (drafting, predicting):
        inputs.add_boot(action)
    tightening = actions.add_parser("tighten", help="cut a policy down to what is running here, after a good boot")
    tightening.add_argument("policy", type=Path, metavar="FILE", help="the policy")
    explain.configure(actions.add_parser("explain", help=explain.HELP))
    for action in (predicting, tightening):
        action.add_argument("-o", "--output", type=Path, metavar="FILE", help="the policy goes here (default: FILE)")


def _add_draft(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--key-id", required=True, metavar="ID", help="the secret, as in: tas secret create ID")
    parser.add_argument("--policy-id", metavar="ID", help="as in policy_ids of a volume (default: the key id)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help=_OUTPUT)
    parser.add_argument(
        "--accept-tcb",
        choices=_ACCEPTABLE,
        default=UP_TO_DATE,
        metavar="STATUS",
        help=f"TDX: the least status of each part of the TCB, one of {', '.join(_ACCEPTABLE)} (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0; what fails is raised, and nothing is written then."""
    config = settings.load_or_defaults(args.config)
    if args.action == "explain":
        return explain.run(args, config)
    if args.action == "tighten":
        return _tighten(args, config)
    config = policies.described(config, args)
    return _draft(args, config) if args.action == "draft" else _predict(args, config)


def _draft(args: argparse.Namespace, config: Config) -> int:
    made = policies.drafted(config, args)
    _put(made.policy, args.output)
    if args.json and args.output is not None:
        head = {"policy_id": made.policy.policy_id, "key_id": args.key_id, "file": str(args.output)}
        _print({**head, "notes": made.notes})
    elif not args.json:
        name = args.output.name if args.output else "FILE"
        _say(args, [*made.notes, f"next, on the service's machine: tas policy put {name}"])
    return 0


def _predict(args: argparse.Namespace, config: Config) -> int:
    tee, outlook = policies.predicted(config, args)
    policy = _added(args, tee, outlook) if args.policy else None
    if args.json:
        _print({"tee": str(tee), "workload": dict(outlook.workload), "notes": outlook.notes, "policy": policy})
        return 0
    sys.stdout.write("".join(f"{name}  {value}\n" for name, value in outlook.workload.items()))
    lines = list(outlook.notes)
    if policy and policy["changed"]:
        lines += [f"{policy['file']} accepts it now", _next(policy["file"])]
    elif policy:
        lines.append(f"{policy['file']} accepts it already")
    _say(args, lines)
    return 0


def _added(args: argparse.Namespace, tee: Tee, outlook: Outlook) -> dict[str, Any]:
    before = _read(args.policy)
    policies.require_kind(before, tee)
    after = widened(before, outlook.workload)
    target = args.output or args.policy
    if after is not before or args.output:
        _put(after, target)
    return {"policy_id": after.policy_id, "file": str(target), "changed": after is not before}


def _tighten(args: argparse.Namespace, config: Config) -> int:
    before = _read(args.policy)
    made = policies.tightened(config, before)
    target, changed = args.output or args.policy, made.policy.rules != before.rules
    if changed or args.output:
        _put(made.policy, target)
    if args.json:
        head = {"policy_id": made.policy.policy_id, "file": str(target), "changed": changed}
        _print({**head, "notes": made.notes})
        return 0
    done = [f"{args.policy} accepts nothing but what is running here already"]
    if changed:
        done = [f"{target} accepts what is running here, and nothing else", _next(target)]
    _say(args, [*made.notes, *done])
    return 0


def _next(file: str | Path) -> str:
    return f"next, on the service's machine: tas policy put --replace {Path(file).name}"


def _read(path: Path) -> Policy:
    return Policy.from_bytes(read_file(str(path), MAX_BYTES))


def _put(policy: Policy, path: Path | None) -> None:
    text = json.dumps(policy.document, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        files.replace(path.absolute(), text.encode(), POLICY_MODE)


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _say(args: argparse.Namespace, lines: Sequence[str]) -> None:
    if not args.quiet:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
