"""`python -m tests.vm`: list the scenarios, play some of them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from tests.vm.command import HarnessError
from tests.vm.play import FAILED, Played, play, shell
from tests.vm.scenarios import SCENARIOS
from tests.vm.timeline import lines

_EXAMPLE = """examples:
  python -m tests.vm                       list the scenarios
  python -m tests.vm snp-unattended        play one
  python -m tests.vm --all
  python -m tests.vm snp-unattended --echo show its console meanwhile
  python -m tests.vm tas-down --shell      be the person at its console (root's password: root); Ctrl-] ends it

Needs root. The first run makes QEMU and the images under build/ (five minutes). Exit: 0 all as they must be, 1 not,
69 the harness itself could not work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm",
        description=__doc__,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", choices=[[], *SCENARIOS], metavar="NAME", help="scenarios to play")
    parser.add_argument("--all", action="store_true", help="play every scenario")
    parser.add_argument("--echo", action="store_true", help="show the machine's console")
    parser.add_argument("--shell", action="store_true", help="this terminal becomes the console; nothing is judged")
    parser.add_argument("--report", action="store_true", help="print what the guest's judge reported, as JSON")
    args = parser.parse_args(argv)
    names = list(SCENARIOS) if args.all else args.name
    if not names:
        sys.stdout.writelines(f"{name:<28} {scenario.about}\n" for name, scenario in SCENARIOS.items())
        return 0
    try:
        if args.shell:
            shell(SCENARIOS[names[0]])
            return 0
        return max([_one(name, echo=args.echo, report=args.report) for name in names])
    except HarnessError as error:
        sys.stderr.write(f"vm: {error}\n")
        return 69


def _one(name: str, *, echo: bool, report: bool) -> int:
    played = play(name, SCENARIOS[name], echo=echo)
    sys.stdout.write(f"{name}: {'FAILED' if played.problems else 'ok'}, {played.ended.seconds:.0f} s\n")
    sys.stdout.writelines(f"  {line}\n" for line in (*lines(played), *_complaints(played)))
    if report:
        sys.stdout.write(json.dumps({"report": played.report, "service": played.decisions}, indent=2) + "\n")
    sys.stdout.flush()
    return int(bool(played.problems))


def _complaints(played: Played) -> list[str]:
    if not played.problems:
        return []
    return [*(f"PROBLEM {problem}" for problem in played.problems), f"console: {FAILED / played.name}.log"]


if __name__ == "__main__":
    sys.exit(main())
