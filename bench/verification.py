"""SNP evidence and bundles against bare ECDSA P-384 verifications by the same library."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

import snp.verify
from agent.core.bundle import decode
from agent.core.policy import Policy
from agent.verify.bundle import verify_bundle
from agent.verify.evidence import anchor_from_pem, verify_evidence
from agent.verify.signed import Judge
from agent.verify.workload import Workload
from bench.figure import Figure, paired, rate
from sim import demo_chain
from sim.demo_world import World

SECONDS = 1.0
PEER = "cryptography ECDSA P-384 verify"


def snp_and_bundle(world: World) -> list[Figure]:
    """Evidence with a warm chain and with nothing kept (no bar), and a whole bundle."""
    data = world.bundle.read_bytes()
    bundle = decode(data)
    at = datetime.now(UTC)
    anchors = (anchor_from_pem(world.root_pem.read_bytes(), "simulator"),)
    attached = bundle.attachments
    evidence = partial(verify_evidence, attached.blob, attached.endorsements, at=at, anchors=anchors)

    def cold() -> object:
        snp.verify.forget()
        return evidence()

    policy = Policy.parse(json.loads(json.dumps(demo_chain.policy(world))))
    whole = partial(verify_bundle, data, Judge(at, Workload(policy), anchors))
    return [
        _against_bare("SNP evidence, warm / bare P-384", 0.7, evidence),
        _against_bare("SNP evidence, cold / bare P-384", None, cold),
        _against_bare("bundle verified / bare P-384", 0.5, whole),
    ]


def _against_bare(name: str, bar: float | None, work: Callable[[], object]) -> Figure:
    key = ec.generate_private_key(ec.SECP384R1())
    message = bytes(0x2A0)
    signature = key.sign(message, ec.ECDSA(SHA384()))
    public = key.public_key()
    bare = partial(public.verify, signature, message, ec.ECDSA(SHA384()))
    ours, peer, ratio = paired(lambda: rate(work, SECONDS), lambda: rate(bare, SECONDS))
    return Figure(name, ratio, "x", bar, True, PEER, f"{ours:.0f}/s against {peer:.0f}/s")
