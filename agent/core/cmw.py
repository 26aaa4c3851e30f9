"""Evidence in its standard wrapper, the CMW record: an array of media type, content and indicator.

Source: draft-ietf-rats-msg-wrap, section "CMW Record"; the claim "cmw" of JWT, and of CWT under the key that the draft
suggests. In JSON the content is base64url, in CBOR a byte string. Ours holds a key document (agent.core.keydoc), which
is evidence and endorsements at once.
"""

from __future__ import annotations

from typing import Any

from agent.core import jws, keydoc
from agent.core.errors import FormatError

CLAIM = "cmw"
CWT_CLAIM = 299
"""Suggested in the draft; IANA has not assigned it yet."""
INDICATOR = 0b0110
"""Bit 1 endorsements, bit 2 evidence."""


def to_json(document: bytes) -> list[Any]:
    """The JSON record of a key document."""
    return [keydoc.MEDIA_TYPE, jws.b64url(document), INDICATOR]


def to_cbor(document: bytes) -> list[Any]:
    """The CBOR record of a key document."""
    return [keydoc.MEDIA_TYPE, document, INDICATOR]


def read(record: Any) -> bytes:
    """The key document in a record of either kind (str content: JSON). Raises FormatError."""
    match record:
        case [keydoc.MEDIA_TYPE, str() as text, int() as indicator] if indicator == INDICATOR and text.isascii():
            return jws.unb64url(text.encode("ascii"), "CMW")
        case [keydoc.MEDIA_TYPE, bytes() as content, int() as indicator] if indicator == INDICATOR:
            return content
    raise FormatError(f"cmw is not a record of {keydoc.MEDIA_TYPE} with indicator {INDICATOR}", record="CMW")
