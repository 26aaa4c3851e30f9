"""A key document on its way to the attestation service, for the audit log's head in its statement (docs/tas.md).

An extension of our own service: no other has the route, and its absence is an answer, not an error.
"""

from __future__ import annotations

from agent.core import keydoc
from agent.core.errors import Denied
from agent.core.exchange import Request
from agent.core.ports import Response
from agent.core.replies import Step, document, refusal

PATH = "/tee-agent/v1/audit-head"
CONTRADICTED = "denied.audit-head"
"""Code of the refusal that says: this head and an earlier one are not of one log."""


def request(key_document: bytes) -> Request:
    """The document as it is; its own evidence is all that speaks for it."""
    return Request("POST", PATH, {"Content-Type": keydoc.MEDIA_TYPE, "Accept": "application/json"}, key_document)


def answer(response: Response) -> bool:
    """True: the service keeps this head. False: it knows no such thing. Raises Denied, ProtocolError, ServerError."""
    if response.status == 404:
        return False
    if response.status == 409:
        raise Denied(
            "the service has another head for this boot's audit log: it was cut, made anew, or this machine runs twice",
            hint="on the service: tas audit heads --alerts; here: tee-agent audit verify",
            code=CONTRADICTED,
        )
    if response.status != 200:
        raise refusal(response, Step.HEAD)
    document(response)
    return True
