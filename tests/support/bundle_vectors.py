"""Published bundles: docs/vectors/bundle-*.json. ``python -m tests.support.bundle_vectors`` makes them anew.

The evidence is simulated, under a throw-away root that stands beside it; the signing key is RFC 8032's first test key.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core.bundle import Bundle
from agent.core.canonical import rfc3339
from agent.core.statement import now_in_seconds
from sim.keys import pem
from tests.support.bundles import PAYLOAD, Signer, statement
from tests.support.simulator import machine

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "vectors"
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
NAMES = {"bundle-snp": False, "bundle-tdx-fresh": True}
"""File, and whether it answers a nonce."""


def steps(bundle: Bundle) -> dict[str, str | None]:
    """What a verifier computes on its way, in hex."""
    return {
        "statement_digest": bundle.attachments.statement.digest().hex(),
        "key_sha256": bundle.attachments.key_sha256.hex(),
        "attachments_digest": bundle.attachments.digest.hex(),
        "signing_input": bundle.signing_input().hex(),
        "leaf": bundle.leaf().encode().hex() if bundle.fresh else None,
        "report_data": bundle.report_data().value.hex(),
    }


def make(name: str, state: Path) -> dict[str, Any]:
    at = now_in_seconds(datetime.now(UTC))
    hardware = machine("tdx" if "tdx" in name else "snp", state)
    changes = {"audit": None} if NAMES[name] else {}  # one of each form
    signer = Signer(hardware, Ed25519PrivateKey.from_private_bytes(SEED), statement(at, **changes))
    bundle = signer.fresh_bundle() if NAMES[name] else signer.bundle()
    return {
        "about": "A bundle over simulated evidence: it verifies at verify_at under root_pem, an added root, with any"
        " workload. docs/bundle.md tells the steps. Binary values are lower-case hex.",
        "verify_at": rfc3339(at),
        "root_pem": pem(hardware.root).decode("ascii"),
        "payload": PAYLOAD.decode("ascii"),
        "private_key_seed": SEED.hex(),
        "bundle": bundle.encode().decode("utf-8"),
        "steps": steps(bundle),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for title in NAMES:
            made = make(title, Path(folder))
            (FOLDER / f"{title}.json").write_text(json.dumps(made, indent=1) + "\n")
