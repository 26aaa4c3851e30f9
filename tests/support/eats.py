"""Tokens with claims that no agent makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from agent.core import canonical, cbor, cose, eat, jws
from tests.support.formats import Party

AT = datetime.now(UTC).replace(microsecond=0)
FORMS = (eat.JSON, eat.CBOR)


def forge(
    party: Party, form: str, change: Callable[[dict[str, Any]], dict[Any, Any]], header: dict[Any, Any] | None = None
) -> bytes:
    """A token over claims changed at will (by their JWT names; integer keys go into a CWT as they are)."""
    token = party.eat(AT, form)
    if form == eat.JSON:
        claims = json.loads(jws.decode_compact(token, eat.MAX_BYTES).payload)
        payload = canonical.encode(change(claims))
        return jws.build_compact(party.private.sign, party.spki, {"typ": eat.JWT_TYPE} | (header or {}), payload)
    found = cbor.decode(cose.decode_sign1(token, eat.MAX_BYTES).payload or b"", "claims", eat.MAX_BYTES)
    labels = {"aud": 3, "exp": 4, "iat": 6, "eat_nonce": 10, "eat_profile": 265, "cmw": 299}
    names = {label: name for name, label in labels.items()}
    changed = change({names[label]: value for label, value in found.items()})
    payload = cbor.encode({labels.get(name, name): value for name, value in changed.items()})
    headers = {eat.COSE_TYP: eat.CWT_TYPE} if header is None else header
    return cose.build_sign1(party.private.sign, party.spki, headers, payload)
