"""Published compact bundles, attachments and a batch: docs/vectors/compact.json.

``python -m tests.support.compact_vectors`` makes it anew, out of the published bundles and with their key; run it after
``python -m tests.support.bundle_vectors``.
"""

from __future__ import annotations

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.core import attachdoc, bundle, canonical, compact
from agent.core.bundle import Bundle, Payload, Series
from agent.daemon import payloads
from tests.support.bundle_vectors import FOLDER, NAMES, SEED

ABOUT = (
    "Each case is the bundle of the file that it names, in two parts: compact and attachments, as text; joined they are"
    " that bundle byte for byte. The batch is signed by the same key over the attachments of its bundle; request and"
    " answer are as POST /v1/sign has them. docs/bundle.md tells the steps. Binary values are lower-case hex."
)
CONTEXT, AUDIENCE = "batch", "relying.example"
PAYLOADS = (b"", b"abc", bytes(range(256)))


def published(name: str) -> Bundle:
    """The bundle of a published file."""
    return bundle.decode(json.loads((FOLDER / f"{name}.json").read_text())["bundle"].encode())


def case(name: str) -> dict[str, Any]:
    made = published(name)
    return {
        "bundle": f"{name}.json",
        "attachments": attachdoc.build(made.attachments).decode(),
        "compact": compact.encode(made).decode(),
        "steps": steps(made),
    }


def steps(made: Bundle) -> dict[str, str]:
    """What is computed on the way, in hex."""
    return {
        "attachments_digest": made.attachments.digest.hex(),
        "signing_input": made.signing_input().hex(),
        "signature": made.signature.hex(),
    }


def request() -> dict[str, Any]:
    """The first payload as data, the others by their digests."""
    digests = (Payload.of(payload) for payload in PAYLOADS[1:])
    items = [{"digest": {"alg": "sha-512", "digest": one.digest.hex(), "size": one.size}} for one in digests]
    return {"payloads": [{"data": canonical.b64(PAYLOADS[0])}, *items]}


def answer(of: str, asked: dict[str, Any]) -> dict[str, Any]:
    attachments = published(of).attachments
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    series = Series(Bundle(Payload.of(), CONTEXT, AUDIENCE, attachments), key.sign, compact.frame)
    made = [json.loads(series.signed(payloads.of_item(item))) for item in asked["payloads"]]
    return {"attachments": attachments.digest.hex(), "signatures": made}


def document() -> dict[str, Any]:
    asked, of = request(), "bundle-snp"
    batch = {"bundle": f"{of}.json", "context": CONTEXT, "audience": AUDIENCE}
    return {
        "about": ABOUT,
        "cases": [case(name) for name in NAMES],
        "batch": {**batch, "request": asked, "answer": answer(of, asked)},
    }


if __name__ == "__main__":
    (FOLDER / "compact.json").write_text(json.dumps(document(), indent=1) + "\n")
