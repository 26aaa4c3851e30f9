"""docs/formats.md holds against the code: its members, its numbers, its example."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.core import cmw, cose, eat, jws, keydoc, sshsig
from agent.core.algorithm import ALGORITHMS
from agent.core.sshwire import NAMES
from agent.verify.cose import verify_cose
from agent.verify.eat import verify_eat
from agent.verify.jws import verify_jws
from agent.verify.keydoc import verify_key
from agent.verify.signed import KeyVerdict
from agent.verify.ssh import verify_ssh
from tests.support import format_vectors as vectors
from tests.support.formats import PAYLOAD, Party
from tests.support.simulator import machine, pki_state

__all__ = ["pki_state"]
AT = datetime.now(UTC)
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "formats.md").read_text()
VERDICTS: dict[str, Callable[[Party], KeyVerdict]] = {
    "raw": lambda party: verify_key(party.document(), party.judge(AT)),
    "jws": lambda party: verify_jws(party.jws(), party.document(), party.judge(AT)),
    "cose": lambda party: verify_cose(party.cose(), party.document(), party.judge(AT)),
    "eat": lambda party: verify_eat(party.eat(AT, eat.JSON), party.judge(AT)),
    "ssh": lambda party: verify_ssh(party.ssh(), party.document(), party.judge(AT), payload=[PAYLOAD]),
}


@pytest.mark.parametrize("use", VERDICTS)
def test_every_member_of_the_output(use: str, pki_state: Path) -> None:
    said = VERDICTS[use](Party.on(machine("snp", pki_state), AT, use)).to_json()
    words = set(re.findall(r"[A-Za-z0-9_-]+", PAGE))
    assert said.keys() - words == set()


def test_every_name_and_number() -> None:
    names = [keydoc.TYPE, keydoc.MEDIA_TYPE, *jws.TYPES, jws.CONTEXT, cose.AUDIENCE, eat.PROFILE, eat.JWT_TYPE]
    names += [eat.CWT_TYPE, str(cmw.CWT_CLAIM), *(kind.jose for kind in ALGORITHMS.values())]
    names += [sshsig.MEDIA_TYPE, *NAMES.values(), *sshsig.HASHES, sshsig.LOGIN, f"at most {sshsig.MAX_BYTES} bytes"]
    names += [str(kind.cose) for kind in ALGORITHMS.values()]
    assert [name for name in names if name not in PAGE] == []


def test_the_example_runs() -> None:
    """The lines as they stand, over a published JWS."""
    example = "".join(line[4:] + "\n" for line in PAGE.splitlines() if line.startswith("    "))
    assert example.count("\n") == 3
    imports = (
        "from base64 import b64decode\n"
        "from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key\n"
        "from joserfc import jws\nfrom joserfc.jwk import ECKey\nfrom joserfc.jws import JWSRegistry\n"
    )
    cases = json.loads((vectors.FOLDER / "jws.json").read_text())["cases"]
    case = next(case for case in cases if case["algorithm"] == "ECDSA-P256")
    names: dict[str, Any] = {"document": json.loads(case["key_document"]), "signature": case["jws"]}
    exec(imports + example, names)
    assert names["payload"] == PAYLOAD
