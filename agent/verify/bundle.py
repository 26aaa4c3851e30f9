"""Offline verification of a bundle. Numbered checks, cheapest first; the first that fails ends it:

1. form: canonical, complete, at most 1 MiB (failing is a FormatError)
2. the key's signature over everything else in the bundle
3. the statement says that the key is for bundles, and its algorithm
4. the statement was in force
5. payload, context, audience, key, storage and nonce are the ones asked for
6. fresh mode: the challenge is a leaf of the quoted tree
7. onwards: the evidence (snp.verify, tdx.verify) with the REPORT_DATA that binds the key; floor; policy

1 and 2 make every flipped bit fail; only 7 says whose key it is. Nothing is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.core import bundle as form
from agent.core import canonical
from agent.core.errors import BindingMismatch
from agent.core.merkle import verify_proof
from agent.core.model import Check, Verified
from agent.verify.report import checks_json, fresh_json, verified_json
from agent.verify.signed import Judge, Trial, required


@dataclass(frozen=True, slots=True)
class BundleVerdict:
    """A bundle that passed everything asked for. ``checks`` are numbered as above; ``not_checked`` says the rest."""

    bundle: form.Bundle
    verified: Verified
    checks: tuple[Check, ...]
    not_checked: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For people's programs; docs/bundle.md has the members."""
        bundle, verified, statement = self.bundle, self.verified, self.bundle.attachments.statement
        return {
            "valid": True,
            "payload": bundle.payload.to_json(),
            "context": bundle.context,
            "audience": bundle.audience,
            "key": {"algorithm": bundle.attachments.algorithm.name, "sha256": bundle.attachments.key_sha256.hex()},
            "statement": statement.to_json(),
            "fresh": fresh_json(bundle.fresh),
            "evidence": verified_json(verified),
            "checks": checks_json(self.checks),
            "not_checked": list(self.not_checked),
        }


def verify_bundle(
    data: bytes,
    judge: Judge,
    *,
    payload: form.Payload | bytes | None = None,
    nonce: bytes | None = None,
    audience: str | None = None,
    context: str | None = None,
) -> BundleVerdict:
    """Verify one bundle; what is None is not compared, and the verdict says so.

    Raises UsageError, FormatError, VerificationError (with the checks made so far).
    """
    expected = form.Payload.of(payload) if isinstance(payload, bytes) else payload
    bundle = form.decode(data)  # 1
    attached = bundle.attachments
    required(attached, judge)
    trial = Trial("bundle")
    trial.signed(attached, bundle.signature, bundle.signing_input())  # 2
    trial.use(attached, form.USE)  # 3
    trial.in_force(attached, judge)  # 4
    _check_payload(trial, bundle, expected)  # 5
    trial.asked_text("context", context, bundle.context)
    trial.asked_text("audience", audience, bundle.audience)
    trial.wanted(attached, judge)
    _check_nonce(trial, bundle, nonce)
    _check_fresh(trial, bundle)  # 6
    verified = trial.evidence(attached, bundle.report_data(), judge)  # 7
    trial.concede(attached, verified, judge, fresh=bundle.fresh is not None)
    return BundleVerdict(bundle, verified, tuple(trial.checks), trial.not_checked())


def _check_payload(trial: Trial, bundle: form.Bundle, expected: form.Payload | None) -> None:
    """Digest and size, as one value."""
    wanted = canonical.encode(expected.to_json()) if expected else None
    found = canonical.encode(bundle.payload.to_json()) if expected else b""
    trial.asked("payload", wanted, found, "the payload is not the one that was signed")


def _check_nonce(trial: Trial, bundle: form.Bundle, nonce: bytes | None) -> None:
    if bundle.fresh is not None or nonce is None:
        trial.asked("nonce", nonce, bundle.fresh.nonce if bundle.fresh else b"", "the nonce is another one")
    else:
        trial.add("nonce", False, "the bundle is not fresh: it answers no nonce", BindingMismatch)


def _check_fresh(trial: Trial, bundle: form.Bundle) -> None:
    fresh = bundle.fresh
    if fresh is None:
        return
    leaf = bundle.leaf().encode()
    proven = verify_proof(fresh.root, fresh.tree_size, fresh.index, leaf, fresh.path)
    trial.add("challenge in the quoted tree", proven, "the challenge is not in the quoted tree", BindingMismatch)
