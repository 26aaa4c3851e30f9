"""schemathesis asks the live daemon what docs/openapi.yaml describes, rightly and wrongly: every answer is as described.

Requests come from the document alone, half of them wrong on purpose, always the same ones (no random seed). What is
compared: status, media type, headers, schema, that wrong requests are refused and right ones are not.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from requests.adapters import HTTPAdapter
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from agent.core.challenge import MAX_OBJECT
from agent.daemon.keystore import USES
from tests.support.daemon import Daemon, dial, open_folder, running_daemon
from tests.support.openapi import document
from tests.support.simulator import Simulator, running_simulator

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

EXAMPLES = 40
"""Random ones of each operation, beside those that walk the edges of every parameter."""
NAME = re.compile(document()["components"]["schemas"]["KeyName"]["pattern"])
KEYS = [f"own-{use}" for use in USES]


class Link(HTTPConnection):
    """urllib3's connection over the daemon's socket."""

    daemon: Daemon

    def _new_conn(self) -> socket.socket:
        return dial(self.daemon.socket)


class Adapter(HTTPAdapter):
    """requests' way to it."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.pool = HTTPConnectionPool("agent")
        self.pool.ConnectionCls = type("Link", (Link,), {"daemon": daemon})

    def get_connection_with_tls_context(self, *_arguments: Any, **_named: Any) -> HTTPConnectionPool:
        return self.pool


@pytest.fixture(scope="module")
def simulator(pki_state: Path) -> Iterator[Simulator]:
    """Its folder is one that the signer's user may pass through."""
    with open_folder() as folder, running_simulator("snp", folder, pki_state) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(simulator: Simulator) -> Iterator[Daemon]:
    """One with a key for each use."""
    with open_folder() as folder, running_daemon(simulator, folder) as running:
        for name, use in zip(KEYS, USES, strict=True):
            said = json.dumps({"name": name, "use": use}).encode()
            assert running.post("/v1/keys", said, Content_Type="application/json").status == 201
        yield running
        assert "Traceback" not in running.log
        assert running.terminate() == 0


@pytest.fixture(scope="module")
def session(daemon: Daemon) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        made.mount("http://agent", Adapter(daemon))
        yield made


SCHEMA = schemathesis.openapi.from_dict(document())
SCHEMA.config.generation.update(
    modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], deterministic=True, database="none"
)
SCHEMA.config.checks.positive_data_acceptance.expected_statuses = ["2xx", "403", "404", "409", "422", "429"]
REFUSALS = (400, 403, 404, 405, 406, 409, 413, 422, 429)
SCHEMA.config.checks.negative_data_rejection.expected_statuses = [str(status) for status in REFUSALS]
# A right request about what is not there, cannot be now, or is no valid signature, is not refused for its form.


def whole(value: Any) -> Any:
    """JSON Schema takes 3.0 for an integer; this API's JSON has no such form (info.description)."""
    if isinstance(value, dict):
        return {name: whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def aimed(case: schemathesis.Case[Any]) -> None:
    """Half of the requests about some key are about one that there is; it is destroyed by nobody."""
    name = str(case.path_parameters.get("name", ""))
    if case.method != "DELETE" and "/v1/keys/" in case.path and NAME.fullmatch(name) and len(name) % 2:
        case.path_parameters["name"] = KEYS[len(str(case.query) + str(case.body)) % len(KEYS)]


def beyond_words(case: schemathesis.Case[Any]) -> list[Any]:
    """Checks that don't apply, where what is right depends on more than the document can say."""
    if case.path == "/v1/keys/{name}/sign":
        return [positive_data_acceptance, negative_data_rejection]  # on the use of the key
    if case.path == "/v1/verify":
        return [positive_data_acceptance]  # on the kind of the document that is asked about
    if "nonce" in (case.query or {}):
        return [positive_data_acceptance]  # on fresh=true beside it
    if isinstance(case.body, dict) and len(json.dumps(case.body)) > MAX_OBJECT:
        return [positive_data_acceptance]  # on the bytes of all claims
    return []


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: schemathesis.Case[Any], session: requests.Session) -> None:
    body = whole(case.body)
    if repr(body) != repr(case.body):
        case.body = body
    aimed(case)
    excluded = beyond_words(case)
    case.call_and_validate(base_url="http://agent", session=session, timeout=60, excluded_checks=excluded)
