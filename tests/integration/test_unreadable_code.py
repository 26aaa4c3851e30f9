"""A daemon whose code only root can read, as in a clone below /root: no role may need a file of it after giving up root."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import ROOT
from tests.support.released import running_world

pytestmark = [pytest.mark.fuse, pytest.mark.root]
CLOSED = """
set -e
mkdir -p -m 700 "$0/code"
for part in agent snp tdx .venv; do mkdir -p "$0/code/$part"; mount --rbind "$1/$part" "$0/code/$part"; done
mount --rbind "$0/code" "$1"
cd "$1"
shift
exec "$@"
"""
"""$0 is a folder, $1 the source's: put out of other users' sight, for the command after it and what it starts."""


@pytest.mark.skipif(not Path(sys.executable).is_relative_to(ROOT), reason="python is not in the source's folder")
def test_everything_is_answered(pki_state: Path, tmp_path: Path) -> None:
    within = ("unshare", "--mount", "--propagation", "private", "sh", "-c", CLOSED, str(tmp_path), str(ROOT))
    probe = subprocess.run([*within, "setpriv", "--reuid=64103", "--clear-groups", "ls", str(ROOT)], check=False)
    assert probe.returncode == 2, "others can read the code: this shows nothing"
    with running_world("snp", pki_state, within=within) as world:
        daemon = world.daemon
        key = json.dumps({"name": "k", "use": "jws", "persistent": True}).encode()
        sealed = daemon.post("/v1/seal", b"state")
        bundle = daemon.post("/v1/sign?fresh=true", b"payload")
        question = json.dumps({"document": {"text": bundle.body.decode()}, "any_workload": True}).encode()
        answers = {
            "seal": sealed,
            "unseal": daemon.post("/v1/unseal", sealed.body),
            "fresh": bundle,
            "secret": daemon.post("/v1/secrets/db"),
            "create": daemon.post("/v1/keys", key, Content_Type="application/json"),
            "rotate": daemon.post("/v1/keys/k/rotate"),
            "sign": daemon.post("/v1/keys/k/sign", b"payload"),
            "attestation": daemon.request("GET", "/v1/keys/k/attestation"),
            "destroy": daemon.request("DELETE", "/v1/keys/k"),
            "metrics": daemon.request("GET", "/metrics"),
            "openapi": daemon.request("GET", "/v1/openapi.json"),
            "status": daemon.request("GET", "/v1/status"),
            "verify": daemon.post("/v1/verify", question, Content_Type="application/json"),
        }
        found = {name: reply.status for name, reply in answers.items()}
        # The simulator's root is nobody's: a verdict all the same.
        assert found == dict.fromkeys(answers, 200) | {"create": 201, "verify": 422}, daemon.log
        assert answers["verify"].json["error"]["code"] == "verify.untrusted-root"
        assert "Traceback" not in daemon.log
