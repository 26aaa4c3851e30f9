"""What a key for ssh signs, and nothing else: file signatures (SSHSIG) and logins, told apart by their first bytes.

SSHSIG is that of OpenSSH's PROTOCOL.sshsig: a namespace, a hash's name and a digest. A login is the publickey request
of RFC 4252, section 7, or OpenSSH's publickey-hostbound-v00 (PROTOCOL, section 3.1). Both are read strictly: other
bytes are never signed, so a key for ssh can't be made to speak another protocol. Nothing here verifies a signature.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.core.errors import FormatError, Oversized
from agent.core.sshwire import MAX_KEY, PublicKey, Reader, strings, uint32

USE = "ssh"
MAGIC, VERSION = b"SSHSIG", 1
HASHES: Mapping[str, int] = MappingProxyType({"sha256": 32, "sha512": 64})
"""Digests that are signed, with their bytes."""
HASH = "sha512"
"""The one that we choose where it is ours to choose."""
TEXT_BYTES = 256
"""Longest namespace and user name, in UTF-8 bytes."""
LOGIN = "ssh-auth"
"""The context of a login. No file signature may have it for a namespace: a rule for one is no rule for the other."""
MAX_SESSION, MAX_HOST_KEY = 64, 8192
MAX_BYTES = 4096
"""Longest armored signature that is read."""
_USERAUTH_REQUEST = 50
_METHODS = {b"publickey": False, b"publickey-hostbound-v00@openssh.com": True}
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----\n", b"\n-----END SSH SIGNATURE-----"
_LINES = re.compile(rb"[A-Za-z0-9+/=]{1,76}(?:\n[A-Za-z0-9+/=]{1,76})*")
_COLUMNS = 70
MEDIA_TYPE = "application/vnd.tee-agent.sshsig"


@dataclass(frozen=True, slots=True)
class FileSignature:
    """What SSHSIG signs: ``digest`` is the message's by ``hash``, one of HASHES."""

    namespace: str
    hash: str
    digest: bytes

    @property
    def context(self) -> str:
        """What rules call it."""
        return self.namespace

    def encode(self) -> bytes:
        """The bytes that the signature is over. Raises FormatError for values that none may have."""
        made = MAGIC + strings(self.namespace.encode("utf-8", "replace"), b"", self.hash.encode(), self.digest)
        if _file(made) != self:
            raise FormatError("this is no text", record="SSHSIG")
        return made


@dataclass(frozen=True, slots=True)
class Login:
    """What a login signs. ``host_key`` is the server's in the form bound to it, else None."""

    session: bytes
    user: str
    host_key: bytes | None

    @property
    def context(self) -> str:
        """What rules call it."""
        return LOGIN


def purpose(data: bytes, key: PublicKey) -> FileSignature | Login:
    """What these bytes would be signed for by ``key``. Raises FormatError: they are neither of the two."""
    return _file(data) if data.startswith(MAGIC) else _login(data, key)


def _file(data: bytes) -> FileSignature:
    reader = Reader(data, "SSHSIG")
    reader.raw(len(MAGIC))
    namespace, name = _namespace(reader)
    digest = reader.string(HASHES[name], HASHES[name])
    reader.finish()
    return FileSignature(namespace, name, digest)


def _namespace(reader: Reader) -> tuple[str, str]:
    """Namespace and hash, with the reserved string between them, which is empty."""
    namespace = reader.text(TEXT_BYTES)
    if namespace == LOGIN:
        raise reader.wrong(f"the namespace {LOGIN} is kept for logins")
    reader.string(0)
    name = reader.text(16)
    if name not in HASHES:
        raise reader.wrong(f"the hash is not one of {', '.join(HASHES)}")
    return namespace, name


def _login(data: bytes, key: PublicKey) -> Login:
    reader = Reader(data, "login")
    session = reader.string(MAX_SESSION, 20)
    if reader.byte() != _USERAUTH_REQUEST:
        raise reader.wrong("this is no authentication request")
    user = reader.text(TEXT_BYTES)
    reader.literal(b"ssh-connection")
    method = reader.string(64)
    if method not in _METHODS:
        raise reader.wrong("the method is not publickey")
    if not reader.boolean():
        raise reader.wrong("the request has no signature")
    reader.literal(key.kind.encode())
    if reader.string(MAX_KEY) != key.blob:
        raise reader.wrong("the request is for another key")
    host_key = reader.string(MAX_HOST_KEY, 1) if _METHODS[method] else None
    reader.finish()
    return Login(session, user, host_key)


@dataclass(frozen=True, slots=True)
class SshSig:
    """A file signature with its key and everything but the digest, as ssh-keygen -Y writes it. Not verified."""

    key: bytes
    namespace: str
    hash: str
    signature: bytes

    def signed(self, digest: bytes) -> FileSignature:
        """What it claims to have signed of a message with this digest by ``hash``."""
        return FileSignature(self.namespace, self.hash, digest)

    def armored(self) -> bytes:
        """The text form, lines of 70 characters."""
        parts = (self.key, self.namespace.encode(), b"", self.hash.encode(), self.signature)
        text = base64.b64encode(MAGIC + uint32(VERSION) + strings(*parts))
        lines = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
        return _BEGIN + b"\n".join(lines) + _END + b"\n"


def is_armored(data: bytes) -> bool:
    """Whether ``data`` begins as one does."""
    return data.startswith(_BEGIN)


def decode(data: bytes) -> SshSig:
    """From the text form: lines of up to 76 characters, all else in its one form. Raises FormatError, Oversized."""
    reader = Reader(_unarmored(data), "SSHSIG")
    if reader.raw(len(MAGIC)) != MAGIC or reader.uint32() != VERSION:
        raise reader.wrong(f"not a signature of version {VERSION}")
    key = reader.string(MAX_KEY)
    namespace, name = _namespace(reader)
    signature = reader.string(MAX_KEY)
    reader.finish()
    return SshSig(key, namespace, name, signature)


def _unarmored(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise Oversized(f"an ssh signature of more than {MAX_BYTES} bytes", record="SSHSIG")
    text = data.removesuffix(b"\n")
    inside = text[len(_BEGIN) : -len(_END)]
    if is_armored(text) and text.endswith(_END) and _LINES.fullmatch(inside):
        joined = inside.replace(b"\n", b"")
        try:
            found = base64.b64decode(joined, validate=True)
        except binascii.Error:
            found = b""
        if found and base64.b64encode(found) == joined:
            return found
    raise FormatError("not an armored ssh signature", record="SSHSIG", hint="as ssh-keygen -Y sign writes it")


def build(key: PublicKey, signed: FileSignature, signature: bytes) -> bytes:
    """The armored signature, from one over ``signed.encode()`` in its fixed form (agent.core.algorithm)."""
    return SshSig(key.blob, signed.namespace, signed.hash, key.wrap(signature)).armored()
