"""Questions for POST /v1/verify and `tee-agent verify` about the same documents: one of each kind, of one machine."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.core import canonical, eat
from agent.core.model import TrustAnchor
from agent.verify import question
from agent.verify.evidence import genuine_anchors, parse_fields
from sim.export import export
from tests.support import bundles
from tests.support.formats import PAYLOAD, Party
from tests.support.simulator import anchor, machine

AT = datetime.now(UTC).replace(microsecond=0)
TIME = canonical.rfc3339(AT)
KINDS = ("bundle", "fresh", "key", "jws", "cose", "detached", "eat.json", "eat.cbor")


def file(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode()}


@dataclass(frozen=True)
class World:
    """A document of each kind, what goes with it, a policy, and the root that both ways of asking are told."""

    folder: Path
    made: dict[str, bytes]
    policy: dict[str, Any]
    anchors: tuple[TrustAnchor, ...]

    def ask(self, name: str, *, trusted: bool = True, **more: Any) -> tuple[bool, dict[str, Any]]:
        """The question's answer."""
        asked = {"document": file(self.made[name]), "at": TIME, **self.beside(name), **more}
        anchors = self.anchors if trusted else None
        return question.answer(json.dumps(asked).encode(), AT, anchors)

    def beside(self, name: str) -> dict[str, Any]:
        """What a document does not hold itself."""
        needed: dict[str, Any] = {}
        if name in ("jws", "cose", "detached"):
            needed["key_document"] = file(self.made["jws.key" if name == "jws" else "cose.key"])
        if name == "detached":
            needed["payload"] = file(PAYLOAD)
        return needed

    def command(self, capsys: pytest.CaptureFixture[str], name: str, *words: str, trusted: bool = True) -> Any:
        """What `tee-agent verify --json` prints for the same."""
        root = ("--trust-root", str(self.folder / "endorsements" / "root.pem")) if trusted else ()
        needed = [f"--key-document={self.folder / 'document'}"] if "key_document" in self.beside(name) else []
        needed += [f"--payload={self.folder / 'payload'}"] if name == "detached" else []
        if needed:
            (self.folder / "document").write_bytes(self.made["jws.key" if name == "jws" else "cose.key"])
        main(["verify", str(self.folder / name), *root, "--at", TIME, *needed, *words, "--json"])
        return json.loads(capsys.readouterr().out)


def world_of(tee: str, pki_state: Path, folder: Path) -> World:
    """A simulated machine's; ``folder`` gets its documents as files."""
    hardware = machine(tee, pki_state)
    export(hardware, folder / "endorsements")
    parties = {use: Party.on(hardware, AT, use) for use in ("raw", "jws", "cose", "eat")}
    signer = bundles.Signer.on(hardware, AT)
    made = {
        "bundle": signer.bundle().encode(),
        "fresh": signer.fresh_bundle().encode(),
        "key": parties["raw"].document(),
        "jws": parties["jws"].jws(),
        "jws.key": parties["jws"].document(),
        "cose": parties["cose"].cose(),
        "detached": parties["cose"].cose(detached=True),
        "cose.key": parties["cose"].document(),
        "eat.json": parties["eat"].eat(AT, eat.JSON),
        "eat.cbor": parties["eat"].eat(AT, eat.CBOR),
        "payload": PAYLOAD,
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    fields = parse_fields(parties["raw"].attachments().blob)[2]
    snp = tee == "snp"
    pinned = {"measurement": fields["measurement"]} if snp else {"mr_td": fields["mr_td"]}
    pinned |= {} if snp else {f"rtmr{index}": fields[f"rtmr{index}"] for index in range(3)}
    policy = {
        "metadata": {"policy_type": tee, "policy_id": "p", "key_id": "k"},
        "validation_rules": {name: {"exact_match": value} for name, value in pinned.items()},
    }
    (folder / "policy.json").write_text(json.dumps(policy))
    return World(folder, made, policy, (*genuine_anchors(), replace_name(anchor(hardware.root), folder)))


def replace_name(found: TrustAnchor, folder: Path) -> TrustAnchor:
    """The command names a root by its file."""
    return replace(found, name=str(folder / "endorsements" / "root.pem"))
