"""Did the server with this host key sign the session? What session-bind@openssh.com claims (PROTOCOL.agent, 1)."""

from __future__ import annotations

import base64

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from agent.core.errors import FormatError
from agent.core.sshagent import Bind
from agent.core.sshsig import MAX_HOST_KEY
from agent.core.sshwire import Reader

_ECDSA = {
    "ecdsa-sha2-nistp256": hashes.SHA256(),
    "ecdsa-sha2-nistp384": hashes.SHA384(),
    "ecdsa-sha2-nistp521": hashes.SHA512(),
}
_RSA = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
_KINDS = {"ssh-ed25519", "ssh-rsa", *_ECDSA}
_MAX_NUMBER = 67
"""Bytes of a scalar of P-521 and its sign."""
_MAX_EXPONENT, _MAX_MODULUS = 5, 1025
"""Bytes of an RSA key's numbers with their signs: up to 39 and 8199 bits; the event loop waits while one is used."""


def is_signed(bind: Bind) -> bool:
    """False where the signature is wrong, and for host keys other than Ed25519, ECDSA and RSA up to 8192 bits."""
    try:
        kind = Reader(bind.host_key, "host key").text(64)
        named = Reader(bind.signature, "host signature")
        name, signature = named.text(64), named.string(MAX_HOST_KEY)
        named.finish()
        if kind not in _KINDS:
            return False
        if kind == "ssh-rsa":
            _require_small(bind.host_key)
        public = load_ssh_public_key(kind.encode() + b" " + base64.b64encode(bind.host_key))
        if isinstance(public, Ed25519PublicKey) and name == kind:
            public.verify(signature, bind.session)
        elif isinstance(public, ec.EllipticCurvePublicKey) and name == kind:
            public.verify(_der(signature), bind.session, ec.ECDSA(_ECDSA[kind]))
        elif isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, bind.session, padding.PKCS1v15(), _RSA[name])
        else:
            return False
    except (FormatError, InvalidSignature, UnsupportedAlgorithm, ValueError, LookupError, RuntimeError):
        # LookupError: no such hash. RuntimeError: what cryptography says of compressed points.
        return False
    return True


def _require_small(host_key: bytes) -> None:
    """Raises FormatError for an RSA key (RFC 4253, section 6.6) that costs more to use than anybody's does."""
    reader = Reader(host_key, "host key")
    reader.literal(b"ssh-rsa")
    reader.number(_MAX_EXPONENT)
    reader.number(_MAX_MODULUS)


def _der(signature: bytes) -> bytes:
    reader = Reader(signature, "host signature")
    r, s = reader.number(_MAX_NUMBER), reader.number(_MAX_NUMBER)
    reader.finish()
    return utils.encode_dss_signature(r, s)
