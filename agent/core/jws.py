"""JSON Web Signatures of attested keys: compact serialization (RFC 7515), payload inside, one byte form each.

The algorithm is the key's and nothing else's: EdDSA (RFC 8037), ES256, ES384 (RFC 7518), ES256K (RFC 8812). ``kid`` is
the key's RFC 7638 thumbprint, so a signature names the key that must verify it. ``crit`` is never written and never
taken: any verifier can read our signatures, and we know no extension. docs/formats.md has the form byte by byte.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.core import canonical
from agent.core.algorithm import P256, P384, SECP256K1, of_spki
from agent.core.errors import FormatError, Oversized

USE = "jws"
TYPE = "tee-agent+jws"
TYPES = (TYPE, "JOSE", "JWT")
"""Values of ``typ`` that a key for JWS may sign under."""
CONTEXT, AUDIENCE = "tee-agent/context", "tee-agent/audience"
"""Private header parameters (RFC 7515, section 4.3); left out where empty."""
TEXT_BYTES = 256
"""Longest context and audience, in UTF-8 bytes."""
MAX_PAYLOAD = 1 << 20
MAX_HEADER = 2048
MAX_BYTES = (MAX_PAYLOAD + MAX_HEADER + 256) * 4 // 3
"""Longest signature that is read."""

Sign = Callable[[bytes], bytes]
"""Makes a key's signature in its fixed form (agent.core.algorithm) over the bytes given."""
_CURVES = {P256: "P-256", P384: "P-384", SECP256K1: "secp256k1"}
_ALPHABET = re.compile(rb"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Compact:
    """The three parts of any compact JWS: header as JSON, payload, and what the signature is over. Not verified."""

    header: dict[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Jws:
    """A JWS of ours, its form checked, nothing verified. ``context`` and ``audience`` are "" where absent."""

    algorithm: str
    key_id: str
    typ: str
    context: str
    audience: str
    compact: Compact


def jwk(spki: bytes) -> dict[str, str]:
    """The public key as JWK (RFC 7517, RFC 8037), required members only. Raises FormatError."""
    kind = of_spki(spki)
    raw = spki[len(kind.spki_prefix) :]
    if not kind.order:
        return {"crv": "Ed25519", "kty": "OKP", "x": b64url(raw)}
    half = len(raw) // 2
    return {"crv": _CURVES[kind.name], "kty": "EC", "x": b64url(raw[:half]), "y": b64url(raw[half:])}


def thumbprint(spki: bytes) -> str:
    """The RFC 7638 thumbprint over SHA-256, base64url: 43 characters. Raises FormatError."""
    return b64url(hashlib.sha256(canonical.encode(jwk(spki))).digest())


def build(sign: Sign, spki: bytes, payload: bytes, *, context: str = "", audience: str = "", typ: str = TYPE) -> bytes:
    """A JWS over ``payload`` (at most MAX_PAYLOAD bytes) by the key in ``spki``, which ``sign`` signs with.

    Raises FormatError for texts over TEXT_BYTES, another ``typ`` than TYPES, Oversized.
    """
    if typ not in TYPES:
        raise FormatError(f"typ is not one of {', '.join(TYPES)}", record="JWS")
    texts = {name: require_text(name, value) for name, value in ((CONTEXT, context), (AUDIENCE, audience)) if value}
    if len(payload) > MAX_PAYLOAD:
        raise Oversized(f"a JWS holds {MAX_PAYLOAD} bytes at the most, not {len(payload)}", record="JWS")
    return build_compact(sign, spki, {"typ": typ, **texts}, payload)


def build_compact(sign: Sign, spki: bytes, header: dict[str, str], payload: bytes) -> bytes:
    """A compact JWS with ``alg`` and ``kid`` added to ``header``. Raises FormatError for a signature out of form."""
    kind = of_spki(spki)
    header = {**header, "alg": kind.jose, "kid": thumbprint(spki)}
    signed = f"{b64url(canonical.encode(header))}.{b64url(payload)}".encode("ascii")
    signature = sign(signed)
    if not kind.is_canonical(signature):
        raise FormatError(f"not a signature of {kind.name} in its fixed form", record="JWS")
    return signed + b"." + b64url(signature).encode("ascii")


def decode(data: bytes) -> Jws:
    """Strict: exact base64url, canonical header of exactly our parameters. Raises FormatError, Oversized."""
    compact = decode_compact(data, MAX_BYTES)
    if len(compact.payload) > MAX_PAYLOAD:
        raise Oversized(f"the JWS holds more than {MAX_PAYLOAD} bytes", record="JWS")
    texts = {CONTEXT, AUDIENCE} & compact.header.keys()
    header = read_header(compact, TYPES, frozenset(texts))
    context, audience = (header.text(name, TEXT_BYTES) if name in texts else "" for name in (CONTEXT, AUDIENCE))
    if not all(compact.header[name] for name in texts):
        raise FormatError("JWS header: an empty text is left out", record="JWS")
    return Jws(header.text("alg", 16), header.text("kid", 64), header.text("typ", 32), context, audience, compact)


def decode_compact(data: bytes, limit: int) -> Compact:
    """The three parts; the header is canonical JSON of at most MAX_HEADER bytes. Raises FormatError, Oversized."""
    if len(data) > limit:
        raise Oversized(f"the JWS has more than {limit} bytes", record="JWS", expected=f"at most {limit} bytes")
    parts = data.split(b".", 3)
    if len(parts) != 3:
        raise FormatError("not a compact JWS: three parts between two dots", record="JWS")
    header, payload, signature = (unb64url(part, "JWS") for part in parts)
    document = canonical.decode(header, "JWS header", MAX_HEADER)
    return Compact(document, payload, parts[0] + b"." + parts[1], signature)


def read_header(compact: Compact, types: tuple[str, ...], more: frozenset[str] = frozenset()) -> canonical.Reader:
    """The header: ``alg``, ``kid``, ``typ`` (one of ``types``) and ``more``, nothing else. Raises FormatError."""
    if "crit" in compact.header:
        raise FormatError("JWS header: crit names extensions, and none is known", record="JWS", code="format.crit")
    reader = canonical.Reader(compact.header, "JWS header", frozenset({"alg", "kid", "typ"}) | more)
    if reader.item("typ") not in types:
        raise FormatError(f"JWS header: typ is not {' or '.join(types)}", record="JWS", code="format.type")
    return reader


def require_text(name: str, value: str) -> str:
    """Text as our headers hold it. Raises FormatError."""
    if not canonical.is_text(value, TEXT_BYTES):
        raise FormatError(f"{name} is not text of at most {TEXT_BYTES} bytes without control characters", record=name)
    return value


def b64url(data: bytes) -> str:
    """base64url without padding (RFC 7515, section 2)."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: bytes, what: str) -> bytes:
    """The way back, for the one form only: no padding, no line breaks, unused bits zero. Raises FormatError."""
    try:
        if _ALPHABET.fullmatch(text):
            data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
            if b64url(data).encode("ascii") == text:
                return data
    except binascii.Error:
        pass
    raise FormatError(
        f"{what}: not base64url in its one form", record=what, hint="byte for byte as issued, without a line end"
    )
