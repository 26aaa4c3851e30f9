"""Endorsements from a folder: certificates and CRLs in PEM or DER under any names, Intel's two JSON bodies.

Sorts by content, not by name. Nothing is believed here: the verifiers judge. What is none of the four is left out,
so a folder may also hold the evidence itself. Names that begin with a dot are left out: drafts, locks. A folder for
several machines, with statements for several platforms, is agent.verify.shelf's business.
"""

from __future__ import annotations

import binascii
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.core import der
from agent.core.canonical import shown
from agent.core.errors import FormatError, Oversized, UsageError
from agent.core.model import Endorsements
from agent.verify.files import read_file
from snp import certtable

MAX_FILE = 1 << 20
"""Bytes of one file; the largest genuine CRLs have some tens of KiB."""
MAX_DEPTH = 8
MAX_AUXBLOB = certtable.MAX_SIZE

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s")
_KINDS = {b"CERTIFICATE": "certificate", b"X509 CRL": "crl"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a folder: files, and bytes of all of them."""

    files: int
    total: int


BOUNDS = Bounds(files=256, total=8 << 20)
"""Of what one machine or one verification needs."""


def load_folder(path: Path) -> Endorsements:
    """Everything of use below ``path``. Raises UsageError (not a folder), FormatError, Oversized."""
    certificates: list[bytes] = []
    crls: list[bytes] = []
    bodies: dict[str, bytes] = {}
    for file, kind, content in contents(path, BOUNDS):
        if kind == "certificate":
            certificates.append(content)
        elif kind == "crl":
            crls.append(content)
        elif bodies.setdefault(kind, content) != content:
            raise FormatError(f"two different files with {kind}, one of them {shown(str(file))}", record=kind)
    return Endorsements(
        tuple(dict.fromkeys(certificates)),
        tuple(dict.fromkeys(crls)),
        bodies.get("tcbInfo", b""),
        bodies.get("enclaveIdentity", b""),
    )


def contents(folder: Path, bounds: Bounds) -> Iterator[tuple[Path, str, bytes]]:
    """File, kind and content of everything of use below ``folder``; kinds as in ``sort``. Raises as load_folder."""
    if not folder.is_dir():
        raise UsageError(
            f"{shown(str(folder))} is not a folder", hint="give the folder with certificates and collateral"
        )
    for file, data in _files(folder, bounds):
        for kind, content in sort(data, str(file)):
            yield file, kind, content


def from_auxblob(auxblob: bytes) -> Endorsements:
    """What an SNP host gave with the report (configfs-tsm's auxblob). Raises FormatError."""
    return certtable.certificates(auxblob)


def sort(data: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """What one file holds: ("certificate" | "crl", DER) or ("tcbInfo" | "enclaveIdentity", bytes as they are)."""
    if b"-----BEGIN " in data:
        for label, body in _blocks(data):
            if label in _KINDS:
                yield _KINDS[label], _pem_body(body, name)
    elif data[:1] == b"\x30":
        if kind := der_kind(data):
            yield kind, data
    elif data.lstrip()[:1] == b"{" and (kind := _json_kind(data)):
        yield kind, data


def certificates_in_pem(pem: bytes, name: str) -> list[bytes]:
    """The certificates of a PEM file, as DER. Raises FormatError for a block that is not base64."""
    return [content for kind, content in sort(pem, name) if kind == "certificate"]


def der_kind(data: bytes) -> str:
    """ "certificate", "crl" or "" for something else, by structure (RFC 5280, sections 4.1 and 5.1)."""
    try:
        whole = der.Reader(data, "DER")
        body = whole.inside(der.SEQUENCE).inside(der.SEQUENCE)
        whole.finish()
        if body.tag() == der.CONTEXT_0:
            return "certificate"
        body.integer()
        body.element(der.SEQUENCE)
        body.element(der.SEQUENCE)
    except FormatError:
        return ""
    return "crl" if body.tag() in (der.UTC_TIME, der.GENERALIZED_TIME) else ""


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Label and body of each PEM block. A body ends at the next five dashes, so no byte is looked at twice."""
    for begin in _BEGIN.finditer(data):
        end = data.find(b"-----", begin.end())
        if end >= 0 and data.startswith(b"-----END %b-----" % begin[1], end):
            yield begin[1], data[begin.end() : end]


def _pem_body(body: bytes, name: str) -> bytes:
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except ValueError as error:
        raise FormatError(f"{shown(name)}: a PEM block is not base64", record="PEM") from error


def _json_kind(data: bytes) -> str:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    keys = document.keys() if isinstance(document, dict) else set()
    return next((kind for kind in ("tcbInfo", "enclaveIdentity") if kind in keys), "")


def _files(folder: Path, bounds: Bounds) -> Iterator[tuple[Path, bytes]]:
    total = count = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(root).relative_to(folder).parts) > MAX_DEPTH:
            raise Oversized(f"{shown(root)}: more than {MAX_DEPTH} folders deep", record="endorsements")
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(root, name)
            if not file.is_file():
                continue
            data = read_file(str(file), MAX_FILE)
            total, count = total + len(data), count + 1
            if count > bounds.files or total > bounds.total:
                problem = f"{shown(str(folder))}: more than {bounds.files} files or {bounds.total} bytes"
                raise Oversized(problem, record="endorsements")
            yield file, data
