"""``python -m tests.fuzz``: coverage-guided fuzzing of every parser of hostile bytes (docs/fuzzing.md).

Runs one target after the other, each in a process of its own with limits of time and memory. What is found and grown
stays under build/fuzz; ``--keep`` takes a minimal set of it into tests/fuzz/corpus, which ``--replay`` and the test
suite run without atheris.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from tests.fuzz import corpus, run
from tests.fuzz.contract import hold
from tests.fuzz.targets import TARGETS


def main() -> int:
    args = _parser().parse_args()
    if args.list:
        print("\n".join(TARGETS))
    elif args.totals:
        _totals()
    elif args.replay:
        return _replay()
    elif args.keep:
        for name in args.target or TARGETS:
            print(f"{name:24} {corpus.keep(name)} inputs kept")
    elif args.all or args.target:
        return _fuzz(args.target or list(TARGETS), args.runs, vectors=args.vectors)
    else:
        _parser().error("say which target, or --all")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", metavar="TARGET", choices=[[], *TARGETS], help="see --list")
    parser.add_argument("--all", action="store_true", help="every target")
    parser.add_argument("--runs", type=int, default=100_000, help="executions per target (default 100000)")
    parser.add_argument("--vectors", action="store_true", help="start from genuine vectors; never kept")
    parser.add_argument("--list", action="store_true", help="names of the targets")
    parser.add_argument("--replay", action="store_true", help="run the kept corpus, without atheris")
    parser.add_argument("--keep", action="store_true", help="minimise what was grown into tests/fuzz/corpus")
    parser.add_argument("--totals", action="store_true", help="executions per target so far, from build/fuzz/log.jsonl")
    return parser


def _fuzz(names: list[str], runs: int, *, vectors: bool) -> int:
    broken = []
    for name in names:
        if vectors and not TARGETS[name].vectors:
            continue
        done = run.fuzz(name, runs, vectors=vectors)
        print(
            f"{name:24} {done.executions:>9} executions in {done.seconds:>5.0f} s, peak {done.peak_mib} MiB", flush=True
        )
        if done.finding:
            broken.append(name)
            print(f"  FOUND: {done.finding}", flush=True)
    return 1 if broken else 0


def _replay() -> int:
    count = 0
    for name, path in corpus.kept():
        hold(TARGETS[name], path.read_bytes())
        count += 1
    print(f"{count} inputs, all within the contract")
    return 0


def _totals() -> None:
    totals: Counter[str] = Counter()
    for line in run.LOG.read_text().splitlines():
        entry = json.loads(line)
        totals[entry["target"]] += entry["executions"]
    for name, count in sorted(totals.items()):
        print(f"{name:24} {count:>10}")
    print(f"{'all':24} {totals.total():>10}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
