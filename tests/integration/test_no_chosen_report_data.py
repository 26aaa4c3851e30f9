"""Invariants I2 and I3: nobody gets evidence over REPORT_DATA of their choosing, whatever they ask.

The simulated hardware writes down every REPORT_DATA that ever reaches it. Every endpoint of every socket and every
command gets the chosen bytes in every place and form that we could think of; then the list is searched for them and
for what an attestation service would take from a thief. Here the endpoints and commands; test_no_chosen_by_socket.py
has the other sockets, and shows that the search finds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import COMMANDS, common_options
from agent.core import compact
from agent.daemon import bulk
from agent.daemon.api import DIGEST_TYPE, ROUTES
from agent.daemon.keystore import USES
from tests.support.chosen import CHOSEN, FIELDS, KEYS, NONCE, forbidden, forms, recorded_daemon
from tests.support.daemon import ROOT, Daemon
from tests.support.recording import Record

pytestmark = pytest.mark.fuse

NOT_TRIED = ("config", "json", "quiet", "follow")
"""Options that every command has; and following a file, which never ends and has no value to choose."""
QUERIES = (
    "",
    f"?report_data={CHOSEN.hex()}",
    f"?nonce={NONCE}",
    f"?context={CHOSEN.hex()}",
    "?fresh=true",
    f"?fresh=true&nonce={NONCE}",
    f"?fresh=true&nonce={CHOSEN.hex()}&context={NONCE}",
)
COMMAND_BY_COMMAND = """
import json, os, sys
from agent.cli import main
lines, found = json.load(sys.stdin), []
out = os.dup(1)
sys.stdin = open(os.devnull)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for line in lines:
    found.append(main(line))
os.write(out, json.dumps(found).encode())
"""


@pytest.fixture(scope="module")
def recorder(pki_state: Path) -> Iterator[tuple[Daemon, Record]]:
    with recorded_daemon(pki_state) as found:
        yield found


def paths(daemon: Daemon) -> list[str]:
    """Every path; those of named keys with a key of each use behind them, and with the chosen bytes for a name."""
    names: list[str] = []
    for use in USES:
        names.append(f"own-{use}" if names else "own")
        said = json.dumps({"name": names[-1], "use": use, "algorithm": "ECDSA-P256"}).encode()
        assert daemon.post("/v1/keys", said, Content_Type="application/json").status == 201
    names += [CHOSEN.hex()[:63], NONCE]
    digests = [daemon.post("/v1/sign", CHOSEN, Accept=compact.MEDIA_TYPE).json["attachments"], CHOSEN.hex()]
    values = {"{name}": names, "{digest}": digests}
    found = []
    for path in ROUTES:
        variable = next((name for name in values if name in path), "")
        found += [path.replace(variable, value) for value in values[variable]] if variable else [path]
    return found


def documents() -> Iterator[dict[str, Any]]:
    for form in forms():
        for field in FIELDS:
            yield {field: form}
            yield {"nonce": NONCE, field: form}
            yield {"nonce": NONCE, "claims": {field: form}, "context": field}
        yield {"nonce": NONCE, "payload": {"alg": "sha-512", "digest": form, "size": 64}}
        yield {"payloads": [{"data": form}, {"digest": {"alg": "sha-512", "digest": CHOSEN.hex(), "size": 64}}]}
        yield {"payloads": [{"digest": {"alg": "sha-512", "digest": form, "size": 64}}]}
        yield {"nonce": NONCE, "context": form, "audience": form}
        yield {"challenges": [{"nonce": form}]}
        yield {"challenges": [{"nonce": CHOSEN.hex(), "payload": {"alg": "sha-512", "digest": form, "size": 64}}]}
        yield {"name": "other", "use": "raw", "algorithm": form}
        yield {"name": form, "use": form}
        yield {"overlap_seconds": form}


def test_http_endpoints(recorder: tuple[Daemon, Record]) -> None:
    daemon, record = recorder
    before = len(record.lines())
    made = fresh = 0
    found = (*paths(daemon), "/v1/quote", "/v1/evidence", "/quote", "/v0/sign", "/v1/tas")
    for path in found:
        for method in ("GET", "POST", "PUT"):
            for query in QUERIES:
                for body in (CHOSEN, NONCE.encode(), NONCE.encode() + KEYS[0]):
                    daemon.request(method, path + query, body)
        for document in documents():
            for media_type in ("application/json", DIGEST_TYPE, bulk.TYPE):
                reply = daemon.post(path, json.dumps(document).encode(), Content_Type=media_type)
                made += reply.status == 200
        for query in QUERIES:
            said = {"alg": "sha-512", "digest": CHOSEN.hex(), "size": 64}
            fresh += daemon.post(path + query, json.dumps(said).encode(), Content_Type=DIGEST_TYPE).status == 200
    # Only now: a key that was destroyed signs nothing that could be looked at.
    for path in found:
        daemon.request("DELETE", path + f"?nonce={NONCE}", CHOSEN)
        daemon.request("DELETE", path)
    assert daemon.request("GET", "/v1/keys/own").json["code"] == "usage.key"
    seen = record.lines()[before:]
    assert made > 50
    assert fresh >= 10  # by the agent's own key and by a named one
    assert len(seen) > 50
    assert not forbidden() & set(seen)


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[list[str], list[argparse.Action]]]:
    """Words that lead to each sub-command, and its own arguments."""
    actions = parser._actions
    subs = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    if not subs:
        yield [], [action for action in actions if not isinstance(action, argparse._HelpAction)]
    for sub in subs:
        for name, child in sub.choices.items():
            yield from (([name, *words], found) for words, found in options(child))


def command_lines(daemon: Daemon, folder: Path) -> Iterator[list[str]]:
    """Each command with each of its options set to the chosen bytes, in words and as a file."""
    (folder / "chosen").write_bytes(CHOSEN)
    file = str(folder / "chosen")
    values = (CHOSEN.hex(), NONCE, file)
    for name in COMMANDS:
        if name == "daemon":
            continue  # the same process as above, were it not running already
        parser = argparse.ArgumentParser(parents=[common_options()])
        importlib.import_module(f"agent.commands.{name}").configure(parser)
        for words, actions in options(parser):
            common = ["--config", str(daemon.config)]
            places = [action for action in actions if not action.option_strings]
            switches = [action for action in actions if action.option_strings and action.dest not in NOT_TRIED]
            yield from ([name, *words, *common, *(value for _ in places)] for value in values)
            for switch in switches:
                given = [[]] if switch.nargs == 0 else [[value] for value in values]
                for value in given:
                    yield [name, *words, *common, switch.option_strings[-1], *value, *(file for _ in places)]


def test_commands(recorder: tuple[Daemon, Record], tmp_path: Path) -> None:
    daemon, record = recorder
    before = len(record.lines())
    commands = list(command_lines(daemon, tmp_path))
    assert len(commands) > 50
    (tmp_path / "here").mkdir()  # names of output files are relative
    said = subprocess.run(
        [sys.executable, "-c", COMMAND_BY_COMMAND],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    done = json.loads(said.stdout)
    assert len(done) == len(commands)
    assert set(done) <= {0, 1, 64, 65, 66, 69, 73, 74, 75, 77, 78}
    assert 0 in done
    seen = record.lines()[before:]
    assert seen
    assert not forbidden() & set(seen)
