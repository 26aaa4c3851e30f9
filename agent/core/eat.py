"""Entity Attestation Tokens (RFC 9711) that attested keys sign: JSON (JWT) and CBOR (CWT), evidence inside as CMW.

A key for EAT signs no caller's bytes: nonce and audience are claims among others that the agent writes. The profile
fixes everything else: the claims, one encoding, no encryption, no submodules, and no device identity (ueid), since
neither vendor's evidence gives one that this agent could vouch for. docs/formats.md has the form byte by byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.core import canonical, cbor, cmw, cose, jws, keydoc
from agent.core.bundle_parts import Attachments
from agent.core.errors import FormatError

USE = "eat"
JSON, CBOR = "json", "cbor"
PROFILE = "urn:uuid:02f7583a-ec70-4d2a-81d3-fff3ceefd480"
"""The eat_profile of version 1 of this form."""
JWT_TYPE = "eat+jwt"
CWT_TYPE = "application/eat+cwt"
"""RFC 9782; in JWT without the prefix, as RFC 7515 section 4.1.9 recommends."""
COSE_TYP = 16
"""RFC 9596."""
NONCE_MIN, NONCE_MAX = 8, 64
"""Bytes of a nonce (RFC 9711, section 4.1)."""
TEXT_BYTES = 256
MAX_BYTES = 2 << 20
"""Longest token that is read: the longest key document, in base64url twice, is shorter."""

# RFC 8392 (aud, exp, iat), RFC 9711 (eat_nonce, eat_profile), agent.core.cmw.
_LABELS: Mapping[str, int] = {
    "aud": 3,
    "exp": 4,
    "iat": 6,
    "eat_nonce": 10,
    "eat_profile": 265,
    cmw.CLAIM: cmw.CWT_CLAIM,
}
_NAMES = {label: name for name, label in _LABELS.items()}
_LAST = 253402300799
"""The last second of the year 9999."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: ``nonce`` 8 to 64 bytes, ``audience`` "" for none, times aware and in whole seconds.

    Raises FormatError.
    """

    nonce: bytes
    audience: str
    issued: datetime
    expires: datetime

    def __post_init__(self) -> None:
        if not NONCE_MIN <= len(self.nonce) <= NONCE_MAX:
            raise FormatError(f"eat_nonce has {NONCE_MIN} to {NONCE_MAX} bytes, not {len(self.nonce)}", record="EAT")
        jws.require_text("aud", self.audience)
        if any(moment.microsecond or moment.tzinfo is None for moment in (self.issued, self.expires)):
            raise FormatError("EAT: times are aware, in whole seconds", record="EAT")
        if not self.issued < self.expires:
            raise FormatError("EAT: it expires before it is issued", record="EAT")


@dataclass(frozen=True, slots=True)
class Eat:
    """A token, its form checked, nothing verified. ``algorithm`` and ``key_id`` are as its format writes them."""

    form: str
    claims: Claims
    document: bytes
    algorithm: str | int
    key_id: str | bytes
    signing_input: bytes
    signature: bytes


def build(sign: jws.Sign, attachments: Attachments, claims: Claims, form: str = JSON) -> bytes:
    """A token by the key in ``attachments``, whose evidence and endorsements it carries.

    ``form`` is JSON or CBOR. Raises FormatError: the key is not for EAT, the claims' times are not within its
    statement's, another ``form``.
    """
    statement, document = attachments.statement, keydoc.build(attachments)
    if statement.use != USE:
        raise FormatError(f"the key is for {statement.use}, not for {USE}", record="EAT")
    if not within(claims, attachments):
        raise FormatError("the token's times are not within those of the key's statement", record="EAT")
    if form == JSON:
        payload = canonical.encode(_members(claims, jws.b64url(claims.nonce), cmw.to_json(document)))
        return jws.build_compact(sign, attachments.spki, {"typ": JWT_TYPE}, payload)
    if form == CBOR:
        members = _members(claims, claims.nonce, cmw.to_cbor(document))
        payload = cbor.encode({_LABELS[name]: value for name, value in members.items()})
        return cose.build_sign1(sign, attachments.spki, {COSE_TYP: CWT_TYPE}, payload)
    raise FormatError(f"EAT: {canonical.shown(form)} is neither {JSON} nor {CBOR}", record="EAT")


def within(claims: Claims, attachments: Attachments) -> bool:
    """Whether the token lives inside its key's statement."""
    statement = attachments.statement
    return statement.created <= claims.issued and claims.expires <= statement.expires


def _members(claims: Claims, nonce: str | bytes, record: list[Any]) -> dict[str, Any]:
    members = {
        "eat_nonce": nonce,
        "eat_profile": PROFILE,
        "exp": int(claims.expires.timestamp()),
        "iat": int(claims.issued.timestamp()),
        cmw.CLAIM: record,
    }
    return members | {"aud": claims.audience} if claims.audience else members


def decode(data: bytes) -> Eat:
    """Strict: one of the two forms, exactly our headers and claims. Raises FormatError, Oversized."""
    return _decode_cwt(data) if data[:1] == bytes([0xC0 | cose.TAG]) else _decode_jwt(data)


def _decode_jwt(data: bytes) -> Eat:
    compact = jws.decode_compact(data, MAX_BYTES)
    header = jws.read_header(compact, (JWT_TYPE,))
    members = canonical.decode(compact.payload, "EAT", MAX_BYTES)
    nonce = members.get("eat_nonce")
    if not isinstance(nonce, str) or not nonce.isascii():
        raise FormatError("EAT: eat_nonce is not base64url", record="EAT")
    claims, document = _claims(members, jws.unb64url(nonce.encode("ascii"), "eat_nonce"), str)
    algorithm, key_id = header.text("alg", 16), header.text("kid", 64)
    return Eat(JSON, claims, document, algorithm, key_id, compact.signing_input, compact.signature)


def _decode_cwt(data: bytes) -> Eat:
    sign1 = cose.decode_sign1(data, MAX_BYTES)
    algorithm, key_id = cose.read_header(sign1, frozenset({COSE_TYP}))
    if sign1.header.get(COSE_TYP) != CWT_TYPE:
        raise FormatError(f"EAT: typ is not {CWT_TYPE}", record="EAT", code="format.type")
    found = cbor.decode(sign1.payload or b"", "EAT", MAX_BYTES)
    if not isinstance(found, dict):
        raise FormatError("EAT: the claims are no map", record="EAT")
    members = {_NAMES.get(label, str(label)) if isinstance(label, int) else label: v for label, v in found.items()}
    nonce = members.get("eat_nonce")
    if _LABELS.keys() & found.keys() or not isinstance(nonce, bytes):
        raise FormatError("EAT: claims have integer keys, and eat_nonce is bytes", record="EAT")
    claims, document = _claims(members, nonce, bytes)
    return Eat(CBOR, claims, document, algorithm, key_id, sign1.signing_input(), sign1.signature)


def _claims(members: dict[str, Any], nonce: bytes, content: type[str | bytes]) -> tuple[Claims, bytes]:
    keys = frozenset(_LABELS) if "aud" in members else frozenset(_LABELS) - {"aud"}
    reader = canonical.Reader(members, "EAT", keys)
    if reader.item("eat_profile") != PROFILE:
        raise FormatError(f"EAT: eat_profile is not {PROFILE}", record="EAT", code="format.version")
    audience = reader.text("aud", TEXT_BYTES) if "aud" in members else ""
    record = reader.item(cmw.CLAIM)
    if ("aud" in members and not audience) or not isinstance(record, list) or len(record) != 3:
        raise FormatError("EAT: an empty aud is left out, and cmw is a record of three", record="EAT")
    if not isinstance(record[1], content):
        raise FormatError("EAT: cmw has the other format's content", record="EAT")
    issued, expires = (datetime.fromtimestamp(reader.integer(name, 0, _LAST), UTC) for name in ("iat", "exp"))
    return Claims(nonce, audience, issued, expires), cmw.read(record)
