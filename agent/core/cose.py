"""COSE_Sign1 of attested keys (RFC 9052), tag 18, canonical CBOR, everything in the protected header.

Algorithms by the identifiers that today's libraries verify: EdDSA -8, ES256 -7, ES384 -35, ES256K -47 (RFC 9053, RFC
8812). RFC 9864 calls the first three polymorphic and gives -19, -9 and -51 instead: those are not taken, for one key
has one identifier. ``external_aad`` is empty, so any library can verify without knowing us; context and audience are
protected headers. ``kid`` is the key's RFC 9679 thumbprint. docs/formats.md has the form byte by byte.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.core import canonical, cbor
from agent.core.algorithm import P256, P384, SECP256K1, of_spki
from agent.core.errors import FormatError, Oversized

USE = "cose"
TAG = 18
ALG, CRIT, CONTENT_TYPE, KID = 1, 2, 3, 4
CONTEXT, AUDIENCE = "tee-agent/context", "tee-agent/audience"
"""Private header labels, text as RFC 9052 section 3 allows; left out where empty."""
TEXT_BYTES = 256
MAX_PAYLOAD = 1 << 20
MAX_HEADER = 2048
MAX_BYTES = MAX_PAYLOAD + MAX_HEADER + 256
"""Longest COSE_Sign1 that is read."""

Sign = Callable[[bytes], bytes]
"""Makes a key's signature in its fixed form (agent.core.algorithm) over the bytes given."""
_CURVES = {P256: 1, P384: 2, SECP256K1: 8}
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sign1:
    """The parts of any COSE_Sign1: ``header`` is the protected one, ``payload`` None where detached. Not verified."""

    header: dict[int | str, Any]
    protected: bytes
    payload: bytes | None
    signature: bytes

    def signing_input(self, detached: bytes | None = None) -> bytes:
        """What the signature is over. Raises FormatError unless the payload is here or given, and only one."""
        if (self.payload is None) is (detached is None):
            problem = "the payload is detached: it has to be given" if detached is None else "the payload is inside"
            raise FormatError(f"COSE_Sign1: {problem}", record="COSE_Sign1", code="format.detached")
        return sig_structure(self.protected, detached if self.payload is None else self.payload)


@dataclass(frozen=True, slots=True)
class Cose:
    """A COSE_Sign1 of ours, its form checked, nothing verified. Texts are "" where absent."""

    algorithm: int
    key_id: bytes
    content_type: str
    context: str
    audience: str
    sign1: Sign1


def cose_key(spki: bytes) -> dict[int, Any]:
    """The public key as COSE_Key (RFC 9053, section 7; RFC 8812), required members only. Raises FormatError."""
    kind = of_spki(spki)
    raw = spki[len(kind.spki_prefix) :]
    if not kind.order:
        return {1: 1, -1: 6, -2: raw}
    half = len(raw) // 2
    return {1: 2, -1: _CURVES[kind.name], -2: raw[:half], -3: raw[half:]}


def thumbprint(spki: bytes) -> bytes:
    """The RFC 9679 thumbprint over SHA-256: 32 bytes. Raises FormatError."""
    return hashlib.sha256(cbor.encode(cose_key(spki))).digest()


def sig_structure(protected: bytes, payload: bytes | None) -> bytes:
    """Sig_structure of COSE_Sign1 (RFC 9052, section 4.4) with empty external_aad."""
    return cbor.encode(["Signature1", protected, b"", payload])


def build(
    sign: Sign,
    spki: bytes,
    payload: bytes,
    *,
    context: str = "",
    audience: str = "",
    content_type: str = "",
    detached: bool = False,
) -> bytes:
    """A COSE_Sign1 over ``payload`` (at most MAX_PAYLOAD bytes, left out if ``detached``) by the key in ``spki``.

    ``content_type`` is a media type without parameters. Raises FormatError, Oversized.
    """
    header: dict[int | str, Any] = {CONTENT_TYPE: content_type} if content_type else {}
    header |= {name: value for name, value in ((CONTEXT, context), (AUDIENCE, audience)) if value}
    _texts(header)
    if len(payload) > MAX_PAYLOAD:
        raise Oversized(f"a COSE_Sign1 is over {MAX_PAYLOAD} bytes at the most", record="COSE_Sign1")
    return build_sign1(sign, spki, header, payload, detached=detached)


def build_sign1(
    sign: Sign, spki: bytes, header: dict[int | str, Any], payload: bytes, *, detached: bool = False
) -> bytes:
    """A COSE_Sign1 with algorithm and kid added to ``header``. Raises FormatError for a signature out of form."""
    kind = of_spki(spki)
    protected = cbor.encode({**header, ALG: kind.cose, KID: thumbprint(spki)})
    signature = sign(sig_structure(protected, payload))
    if not kind.is_canonical(signature):
        raise FormatError(f"not a signature of {kind.name} in its fixed form", record="COSE_Sign1")
    return cbor.encode(cbor.Tag(TAG, [protected, {}, None if detached else payload, signature]))


def decode(data: bytes) -> Cose:
    """Strict: canonical, exactly our headers, nothing unprotected. Raises FormatError, Oversized."""
    sign1 = decode_sign1(data, MAX_BYTES)
    if len(sign1.payload or b"") > MAX_PAYLOAD:
        raise Oversized(f"the COSE_Sign1 holds more than {MAX_PAYLOAD} bytes", record="COSE_Sign1")
    algorithm, key_id = read_header(sign1, frozenset({CONTENT_TYPE, CONTEXT, AUDIENCE}))
    texts = _texts(sign1.header)
    content_type, context, audience = (texts.get(name, "") for name in (CONTENT_TYPE, CONTEXT, AUDIENCE))
    return Cose(algorithm, key_id, content_type, context, audience, sign1)


def decode_sign1(data: bytes, limit: int) -> Sign1:
    """Array and protected header of a tagged COSE_Sign1, both canonical. Raises FormatError, Oversized."""
    found = cbor.decode(data, "COSE_Sign1", limit)
    parts = found.value if isinstance(found, cbor.Tag) and found.number == TAG else None
    if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
        raise _error("not a tagged array of four with an empty unprotected header")
    protected, _, payload, signature = parts
    if not isinstance(protected, bytes) or not isinstance(signature, bytes):
        raise _error("protected header and signature are byte strings")
    if payload is not None and not isinstance(payload, bytes):
        raise _error("the payload is neither a byte string nor null")
    header = cbor.decode(protected, "COSE header", MAX_HEADER)
    if not isinstance(header, dict):
        raise _error("the protected header is no map")
    return Sign1(header, protected, payload, signature)


def read_header(sign1: Sign1, more: frozenset[int | str]) -> tuple[int, bytes]:
    """Algorithm and kid; beside them only ``more``. Raises FormatError."""
    header = sign1.header
    if CRIT in header:
        raise FormatError("COSE header: crit names extensions, and none is known", record="COSE", code="format.crit")
    if unknown := header.keys() - {ALG, KID} - more:
        raise _error(f"unknown header {canonical.shown(str(min(unknown, key=str)))}")
    algorithm, key_id = header.get(ALG), header.get(KID)
    if not isinstance(algorithm, int) or isinstance(algorithm, bool) or not isinstance(key_id, bytes):
        raise _error("alg (an integer) and kid (bytes) are required")
    return algorithm, key_id


def _texts(header: dict[int | str, Any]) -> dict[int | str, str]:
    """The texts among the headers, checked: none of them empty. Raises FormatError."""
    texts = {name: header[name] for name in (CONTENT_TYPE, CONTEXT, AUDIENCE) if name in header}
    for name, value in texts.items():
        if not isinstance(value, str) or not value or not canonical.is_text(value, TEXT_BYTES):
            raise _error(f"{name}: not text of 1 to {TEXT_BYTES} bytes without control characters")
    if not _MEDIA_TYPE.fullmatch(texts.get(CONTENT_TYPE, "a/b")):
        raise _error("content type: not a media type without parameters")
    return texts


def _error(problem: str) -> FormatError:
    return FormatError(f"COSE_Sign1: {problem}", record="COSE_Sign1")
