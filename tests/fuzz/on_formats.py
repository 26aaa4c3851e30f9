"""Targets: what attested keys sign and what goes with it, and how the socket is asked for many of them.

Most inputs are put into canonical form first, or wrapped and signed by a key of this process, so that the fuzzer gets
past what would stop nearly all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from agent.core import attachdoc, bundle, canonical, cbor, compact, cose, eat, jws, keydoc
from agent.core.algorithm import ALGORITHMS, ED25519
from agent.core.bundle import Bundle
from agent.core.bundle_parts import Attachments
from agent.core.errors import TeeAgentError
from agent.core.model import Endorsements, Tee
from agent.daemon import accept, bulk, payloads
from agent.daemon.formats import BUNDLES
from agent.daemon.privatekey import PrivateKey
from agent.verify import kinds
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_core import JSON_WORDS, as_canonical
from tests.fuzz.samples import AT, Samples
from tests.support.bundles import statement
from tests.support.formats import Party

KINDS = {kinds.BUNDLE, kinds.COMPACT, kinds.KEY, kinds.JWS, kinds.COSE, kinds.EAT, kinds.SSH}
MEMBERS = (b'"attachments":"', b'"endorsements":', b'"evidence":', b'"fresh":null', b'"statement":', b'"payload":')


@cache
def key() -> PrivateKey:
    """Of this process; what it signs is nothing that an input would depend on."""
    return PrivateKey(ALGORITHMS[ED25519])


@cache
def attached() -> Attachments:
    return Attachments(Tee.SNP, b"report", Endorsements(), key().spki, statement(AT))


def kind(data: bytes) -> None:
    """Any bytes at all are of some kind."""
    if kinds.kind_of(data) not in KINDS:
        raise Broken("a kind of its own")


def compacts(data: bytes) -> None:
    data = as_canonical(data)
    found = compact.decode(data)
    made = Bundle(found.payload, found.context, found.audience, attached(), found.fresh, found.signature)
    named = canonical.parse(data, "compact bundle", compact.MAX_BYTES) | {"attachments": attached().digest.hex()}
    if len(found.signature) == attached().algorithm.signature_size:
        if compact.encode(made) != canonical.encode(named):
            raise Broken("a compact bundle does not come out as it went in")
        if bundle.decode(made.encode()) != made:
            raise Broken("the joined bundle is another one")
    compact.join(found, attached())


def attachments(data: bytes) -> None:
    """Out of each of the three documents that hold them."""
    data = as_canonical(data)
    found = attachdoc.decode_any(data)
    builders: tuple[Callable[[Attachments], bytes], ...] = (attachdoc.build, keydoc.build)
    if not any(build(found) == data for build in builders) and bundle.decode(data).attachments != found:
        raise Broken("attachments do not come out as they went in")
    if len(found.digest) != 64 or len(keydoc.report_data(found).value) != 64:
        raise Broken("a digest of another size")


def keys(data: bytes) -> None:
    data = as_canonical(data)
    if keydoc.build(keydoc.decode(data)) != data:
        raise Broken("a key document does not come out as it went in")


def jws_compact(data: bytes) -> None:
    """A JWS as it stands; or, behind a zero, a header up to a line feed and a payload, put together and signed."""
    if data[:1] == b"\0":
        header, _, payload = data[1:].partition(b"\n")
        signed = ".".join(jws.b64url(part) for part in (as_canonical(header), payload)).encode("ascii")
        data = signed + b"." + jws.b64url(key().sign(signed)).encode("ascii")
    found = jws.decode(data).compact
    if found.signing_input + b"." + jws.b64url(found.signature).encode("ascii") != data:
        raise Broken("a JWS does not come out as it went in")


def cose_sign1(data: bytes) -> None:
    """The same; behind a zero, a length of the protected header, the header, and the payload."""
    if data[:1] == b"\0":
        size = int.from_bytes(data[1:3], "big")
        protected, payload = data[3 : 3 + size], data[3 + size :]
        signature = key().sign(cose.sig_structure(protected, payload))
        data = cbor.encode(cbor.Tag(cose.TAG, [protected, {}, payload, signature]))
    found = cose.decode(data).sign1
    if cbor.encode(cbor.Tag(cose.TAG, [found.protected, {}, found.payload, found.signature])) != data:
        raise Broken("a COSE_Sign1 does not come out as it went in")


def tokens(data: bytes) -> None:
    """An EAT; or, behind a zero or a one, its claims as JSON or CBOR, wrapped and signed."""
    if data[:1] == b"\0":
        data = jws.build_compact(key().sign, key().spki, {"typ": eat.JWT_TYPE}, as_canonical(data[1:]))
    elif data[:1] == b"\1":
        data = cose.build_sign1(key().sign, key().spki, {eat.COSE_TYP: eat.CWT_TYPE}, data[1:])
    found = eat.decode(data)
    keydoc.decode(found.document)


def cbor_items(data: bytes) -> None:
    found = cbor.decode(data, "item", 1 << 16)
    if cbor.encode(found) != data:
        raise Broken("an item does not come out as it went in")


def batches(data: bytes) -> None:
    """Each item by each of its readers, as keys of every algorithm would have it read."""
    hashing = [partial(payloads.hash_of_item, algorithm=one) for one in ALGORITHMS.values() if one.hash]
    readers: list[Callable[[Any], object]] = [payloads.of_item, payloads.data_of_item, *hashing]
    found = bulk.items(data)
    if not 1 <= len(found) <= bulk.MAX_ITEMS:
        raise Broken("more items than a batch has")
    for item in found:
        for read in readers:
            try:
                read(item)
            except TeeAgentError:
                continue


def accepted(data: bytes) -> None:
    if accept.choose(data.decode("latin-1"), BUNDLES) not in BUNDLES:
        raise Broken("a form that nobody offers")


def _party(samples: Samples, use: str, algorithm: str = ED25519) -> Party:
    return Party.on(samples.chips[1], AT, use, algorithm)


def _compact_seeds(samples: Samples) -> list[bytes]:
    return [compact.encode(one) for signer in samples.signers for one in (signer.bundle(), signer.fresh_bundle())]


def _attached_seeds(samples: Samples) -> list[bytes]:
    found = [signer.attachments() for signer in samples.signers]
    whole = samples.signers[0].fresh_bundle().encode()
    return [*(attachdoc.build(one) for one in found), keydoc.build(found[0]), whole, attachdoc.build(attached())]


def _key_seeds(samples: Samples) -> list[bytes]:
    return [*(_party(samples, "raw", name).document() for name in ALGORITHMS), keydoc.build(attached())]


def _jws_seeds(samples: Samples) -> list[bytes]:
    party = _party(samples, "jws")
    made = [party.jws(b"x"), party.jws(b"{}", typ="JWT", context=""), _party(samples, "jws", "ECDSA-P384").jws(b"")]
    headers = [jws.decode_compact(one, jws.MAX_BYTES).header for one in made]
    return [*made, *(b"\0" + canonical.encode(header) + b"\npayload" for header in headers)]


def _cose_seeds(samples: Samples) -> list[bytes]:
    party = _party(samples, "cose")
    made = [party.cose(b"x"), party.cose(b"x", detached=True, content_type="text/plain", context="")]
    headers = [cose.decode_sign1(one, cose.MAX_BYTES).protected for one in made]
    return [*made, *(b"\0" + len(header).to_bytes(2, "big") + header + b"payload" for header in headers)]


def _eat_seeds(samples: Samples) -> list[bytes]:
    party = _party(samples, "eat")
    made = {form: party.eat(AT, form) for form in (eat.JSON, eat.CBOR)}
    claims = jws.decode_compact(made[eat.JSON], eat.MAX_BYTES).payload
    members = cose.decode_sign1(made[eat.CBOR], eat.MAX_BYTES).payload or b""
    return [*made.values(), b"\0" + claims, b"\1" + members]


def _batch_seeds(_: Samples) -> list[bytes]:
    digest = {"alg": "sha-512", "digest": "0a" * 64, "size": 1}
    own = {"alg": "sha-256", "digest": "0a" * 32, "size": 1}
    lists: list[list[dict[str, Any]]] = [[{"data": ""}, {"data": "QQ=="}], [{"digest": digest}, {"digest": own}]]
    return [json.dumps({"payloads": items}).encode() for items in lists]


def _accept_seeds(_: Samples) -> list[bytes]:
    whole, short = (name.encode() for name in BUNDLES)
    return [short, whole + b";q=0.5, " + short, b'*/*;q=0.1, application/*;x="y"', b"text/html,,a/b;Q=1.000;e=1"]


def _all_seeds(samples: Samples) -> list[bytes]:
    return [*_compact_seeds(samples)[:1], *_jws_seeds(samples)[:1], *_cose_seeds(samples)[:1], *_eat_seeds(samples)[:2]]


TARGETS = {
    "formats.kind": Target(kind, _all_seeds, (*JSON_WORDS, b'"type":"', b"eyJ", b"\xd2", b"-----BEGIN"), most=4096),
    "formats.compact": Target(compacts, _compact_seeds, (*JSON_WORDS, *MEMBERS, b"tree_size", b"null"), most=8192),
    "formats.attachments": Target(attachments, _attached_seeds, (*JSON_WORDS, *MEMBERS), most=24576),
    "formats.key": Target(keys, _key_seeds, (*JSON_WORDS, *MEMBERS), most=16384),
    "formats.jws": Target(jws_compact, _jws_seeds, (*JSON_WORDS, b'"crit":', b'"kid":', b'"alg":"EdDSA"'), most=4096),
    "formats.cose": Target(
        cose_sign1, _cose_seeds, (b"\xd2\x84", b"\xa0", b"\xf6", b"\x18", b"\x5f", b"\x78"), most=2048
    ),
    "formats.eat": Target(tokens, _eat_seeds, (*JSON_WORDS, b'"cmw":[', b"eat_nonce", b"\x19\x01\x2b"), most=24576),
    "formats.cbor": Target(
        cbor_items,
        lambda s: [cbor.encode({1: -7, "a": [b"x", None, True, cbor.Tag(18, "y")], -1: 2**40})],
        (b"\x1b", b"\x3b", b"\xc0", b"\xd8", b"\x9f", b"\xff", b"\xf9", b"\xfb"),
        most=2048,
    ),
    "daemon.batch": Target(batches, _batch_seeds, (*JSON_WORDS, b'{"data":"', b'{"digest":{', b"sha-384"), most=4096),
    "daemon.accept": Target(
        accepted, _accept_seeds, (b";q=", b"*/*", b"application/", b", ", b'="', b"0.001"), most=1100
    ),
}
