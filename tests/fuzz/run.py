"""Starts a target's process, gives it seeds and limits, and notes what came of it in build/fuzz/log.jsonl."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.verify.endorsements import sort
from tests.fuzz.contract import SECONDS, Target
from tests.fuzz.samples import Samples
from tests.fuzz.targets import TARGETS
from tests.support.vectors import ROOT as VECTORS

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build" / "fuzz"
LOG = BUILD / "log.jsonl"
KEPT = Path(__file__).with_name("corpus")
RSS_MIB = 1024
"""Of the whole process, the fuzzer's own corpus and counters included; one input's share is the contract's business."""
_EXECUTIONS = re.compile(r"^(?:stat::number_of_executed_units: |#)(\d+)", re.MULTILINE)
_PEAK = re.compile(r"^stat::peak_rss_mb:\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Done:
    """One run. ``finding`` is empty, or where the input lies that broke the contract and what it raised."""

    target: str
    executions: int
    seconds: float
    peak_mib: int
    vectors: bool
    finding: str
    ended: str


def fuzz(name: str, runs: int, *, vectors: bool = False) -> Done:
    """``runs`` executions of one target, fewer if something is found."""
    work = grown(name, vectors=vectors)
    _seed(TARGETS[name], name, work, vectors=vectors)
    found = BUILD / "found"
    found.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    output = child(name, *_limits(TARGETS[name], name, found), f"-runs={runs}", str(work))
    seconds = time.monotonic() - begun
    counts = [int(count) for count in _EXECUTIONS.findall(output)]
    peaks = [int(peak) for peak in _PEAK.findall(output)]
    finding = _finding(output)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    done = Done(name, max(counts, default=0), round(seconds, 1), max(peaks, default=0), vectors, finding, ended)
    with LOG.open("a") as log:
        log.write(json.dumps(asdict(done)) + "\n")
    (BUILD / f"{name}.out").write_text(output)
    return done


def child(name: str, *options: str) -> str:
    """What the target's process printed; its exit status says no more than that."""
    argv = [sys.executable, "-m", "tests.fuzz.child", name, *options]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def grown(name: str, *, vectors: bool) -> Path:
    """The folder where a target's corpus grows. What came out of genuine vectors stays apart from what may be kept."""
    return BUILD / ("vectors" if vectors else "own") / name


def seeds(target: Target, *, vectors: bool) -> Iterator[bytes]:
    """Good inputs to start from."""
    if not vectors:
        yield from target.seeds(Samples(BUILD / "pki"))
        return
    for pattern in target.vectors:
        for path in sorted(VECTORS.glob(pattern)):
            data = path.read_bytes()
            yield data
            if path.suffix == ".pem":
                yield from (der for _, der in sort(data, path.name))


def _seed(target: Target, name: str, work: Path, *, vectors: bool) -> None:
    work.mkdir(parents=True, exist_ok=True)
    kept = [] if vectors else [path.read_bytes() for path in (KEPT / name).glob("*")]
    for data in (*seeds(target, vectors=vectors), *kept):
        (work / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def _limits(target: Target, name: str, found: Path) -> list[str]:
    words = BUILD / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    return [
        *([f"-dict={words}"] if target.words else []),
        f"-max_len={target.most}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-artifact_prefix={found}/{name}-",
        "-print_final_stats=1",
        "-reload=0",
    ]


def _escaped(word: bytes) -> str:
    return "".join(chr(octet) if octet < 0x80 and chr(octet).isalnum() else f"\\x{octet:02x}" for octet in word)


def _finding(output: str) -> str:
    """The last lines before libFuzzer's report, and where it put the input."""
    if "Test unit written to" not in output:
        return "" if "stat::number_of_executed_units" in output else f"did not run: {output[-800:]}"
    lines = output.splitlines()
    where = next(line for line in lines if "Test unit written to" in line)
    said = [
        line
        for line in lines
        if re.match(r"\s*(\w+\.)*\w*(Error|Broken|Exception)\b.*|.*(timeout after|out-of-memory).*", line)
    ]
    return f"{said[-1].strip() if said else 'unknown'} | {where.strip()}"
