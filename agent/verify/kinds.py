"""What a file is that `tee-agent verify` was given: told by its first bytes and its type, nothing of it verified."""

from __future__ import annotations

from agent.core import bundle, canonical, compact, cose, eat, jws, keydoc, sshsig
from agent.core.errors import FormatError

BUNDLE, KEY, JWS, COSE, EAT, SSH = "bundle", "key document", "JWS", "COSE_Sign1", "EAT", "ssh signature"
COMPACT = "compact bundle"
MAX_BYTES = max(bundle.MAX_BYTES, keydoc.MAX_BYTES, jws.MAX_BYTES, cose.MAX_BYTES, eat.MAX_BYTES)
"""Longest file of any kind."""


def kind_of(data: bytes) -> str:
    """One of the seven. What is none of them is taken for a bundle, whose reader says what is wrong. Raises nothing."""
    if sshsig.is_armored(data):
        return SSH
    try:
        if data[:1] == bytes([0xC0 | cose.TAG]):
            return EAT if cose.decode_sign1(data, eat.MAX_BYTES).header.get(eat.COSE_TYP) == eat.CWT_TYPE else COSE
        if data[:3] == b"eyJ":
            header = canonical.parse(jws.unb64url(data.split(b".", 1)[0], JWS), JWS, jws.MAX_HEADER)
            return EAT if header.get("typ") == eat.JWT_TYPE else JWS
        kind = canonical.parse(data, "document", MAX_BYTES).get("type")
        return {keydoc.TYPE: KEY, compact.TYPE: COMPACT}.get(kind, BUNDLE) if isinstance(kind, str) else BUNDLE
    except FormatError:
        return {b"\xd2": COSE, b"e": JWS}.get(data[:1], BUNDLE)
