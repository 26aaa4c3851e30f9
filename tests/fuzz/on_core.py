"""Targets: the formats of agent.core, which strangers write too: bundles, policies, configuration, answers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from agent.core import appraisal, bundle, canonical, cmdline, config, crypttab, der, merkle, policy, rules, x509
from agent.core.errors import TeeAgentError
from agent.core.exchange import Attempt, version_answer
from agent.core.model import Tee
from agent.core.statement import STORAGES, Statement
from agent.verify import evidence
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_vendors import DER_WORDS
from tests.fuzz.samples import Samples, b64, compact

JSON_WORDS = (
    b'":"',
    b'":{',
    b'":[',
    b"null",
    b"true",
    b"false",
    b"-1",
    b"9007199254740992",
    b"1e999",
    b"\\ud800",
    b"\\u001b",
)


def elements(data: bytes) -> None:
    """Every kind of value, wherever one stands; then the helpers that read part of a certificate."""
    reader = der.Reader(data, "sample")
    kinds: dict[int, Any] = {
        der.BOOLEAN: reader.boolean,
        der.INTEGER: reader.integer,
        der.BIT_STRING: reader.bits,
        der.OID: lambda: der.dotted(reader.content(der.OID)),
        **dict.fromkeys((der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING), reader.text),
        **dict.fromkeys((der.UTC_TIME, der.GENERALIZED_TIME), reader.time),
        **dict.fromkeys((der.SEQUENCE, der.SET, der.CONTEXT_0, der.CONTEXT_3), lambda: _enter(reader)),
    }
    while reader.tag() != -1:
        kinds.get(reader.tag(), reader.skip)()
    reader.finish()


def _enter(reader: der.Reader) -> None:
    inner = reader.inside(reader.tag())
    reader.at, reader.end = inner.at, inner.end


def names(data: bytes) -> None:
    for read in (x509.subject_public_key_info, x509.common_name):
        try:
            read(data)
        except TeeAgentError:
            continue


def canonical_json(data: bytes) -> None:
    document = canonical.parse(data, "document", 1 << 20)
    written = canonical.encode(document)
    if canonical.decode(written, "document", 1 << 21) != document:
        raise Broken("a document does not come out as it went in")
    if canonical.printable(json.dumps(document)) and len(canonical.shown(str(document))) > 1000:
        raise Broken("a quotation is longer than it may be")


def as_canonical(data: bytes) -> bytes:
    """The same document in its one form, so that the fuzzer gets past the comparison; other bytes as they are."""
    try:
        return canonical.encode(canonical.parse(data, "document", 1 << 20))
    except TeeAgentError:
        return data


def bundles(data: bytes) -> None:
    data = as_canonical(data)
    found = bundle.decode(data)
    if found.encode() != data:
        raise Broken("a bundle does not come out as it went in")
    found.signing_input(), found.report_data()
    if found.fresh:
        fresh = found.fresh
        merkle.verify_proof(fresh.root, fresh.tree_size, fresh.index, found.leaf().encode(), fresh.path)


def statement(data: bytes) -> None:
    data = as_canonical(data)
    if Statement.parse(data).canonical() != data:
        raise Broken("a statement does not come out as it went in")


_FIELDS: dict[Tee, dict[str, Any]] = {}


def policies(data: bytes) -> None:
    """Parsed, and tried on a report and a quote."""
    found = policy.Policy.from_bytes(data)
    for fields in _evidence().values():
        if not all(isinstance(check.ok, bool) for check in policy.evaluate(found, fields)):
            raise Broken("a check is neither good nor bad")


def _evidence() -> dict[Tee, dict[str, Any]]:
    """Fields as a verifier has them, made once: a report and a quote of nobody."""
    if not _FIELDS:
        from snp.abi import ReportV5
        from tests.unit.tdx.world import World

        quote = evidence.parse_fields(World().quote())[2]
        quote["tcb"] = {
            "platform_tcb": "OutOfDate",
            "tdx_module_tcb": "UpToDate",
            "qe_tcb": "UpToDate",
            "update": "early",
            "status": "TDRelaunchAdvised",
            "advisories": ["INTEL-SA-00837"],
            "evaluation_data_number": 17,
        }
        _FIELDS.update({Tee.SNP: ReportV5.build(policy=0x30000).fields(), Tee.TDX: quote})
    return _FIELDS


def floors(data: bytes) -> None:
    fields = canonical.parse(data, "fields", 1 << 16)
    appraisal.tree(fields)
    for tee in Tee:
        policy.evaluate_floor(policy.Floor(), tee, fields)


_STATUSES = (200, 200, 200, 400, 401, 403, 404, 429, 500, 503, 302, 299)


def answers(data: bytes) -> None:
    """First byte: which question and which status; then the header's value up to a line feed; then the body."""
    kind, (wish, _, body) = data[:1] or b"\0", data[1:].partition(b"\n")
    headers = {"retry-after": wish.decode("latin-1")}
    response = cast(Any, SimpleNamespace(status=_STATUSES[kind[0] % len(_STATUSES)], headers=headers, body=body))
    ask = (version_answer, Attempt("id").nonce_answer, Attempt("id").secret_answer)[kind[0] // len(_STATUSES) % 3]
    ask(response)


def toml(data: bytes) -> None:
    config.parse(data.decode("utf-8", errors="replace"), "tee-agent.toml")


def crypttabs(data: bytes) -> None:
    for entry in crypttab.parse(data.decode(errors="replace")):
        if not entry.name or not entry.source:
            raise Broken("an entry of nothing")


def command_line(data: bytes) -> None:
    cmdline.check(data.decode(errors="surrogateescape"), cmdline.DEFAULT_ALLOW)


def _answer_seeds(_: Samples) -> list[bytes]:
    released = {"wrapped_key": b64(bytes(256)), "blob": b64(bytes(32)), "iv": b64(bytes(12)), "tag": b64(bytes(16))}
    kwp = {**released, "iv": "", "tag": "", "algorithm": b64(b"AES-KWP")}
    return [
        b"\x00\n" + compact({"version": "0.1.0"}),
        bytes([len(_STATUSES)]) + b"\n" + compact({"nonce": "5a" * 32}),
        bytes([2 * len(_STATUSES)]) + b"\n" + compact({"secret_key": released, "trust": "added-root"}),
        bytes([2 * len(_STATUSES)]) + b"\n" + compact({"secret_key": kwp}),
        bytes([2 * len(_STATUSES) + 3]) + b"\n" + compact({"error": "TEE verification failed"}),
        bytes([2 * len(_STATUSES) + 4]) + b"\n" + compact({"error": "Nonce has expired"}),
        bytes([7]) + b"17\n" + compact({"error": "rate_limit_exceeded"}),
    ]


def policy_seeds(_: Samples) -> list[bytes]:
    about = {"policy_id": "a", "key_id": "b"}
    pinned = {"exact_match": "00" * 48}
    snp = {
        "measurement": {"allow_list": ["11" * 48, "00" * 48]},
        "reported_tcb": {"snp": {"min_value": 5}, "raw": {"exact_match": "0x0000000000000000"}},
        "policy": {"debug_allowed": False, "abi_major": {"max_value": 1}},
        "vmpl": {"deny_list": [1, 2, 3]},
        "current_version": {"major": {"min_value": 1}},
        "platform_info": {"smt_enabled": {"boolean": True}},
        "cpuid": {"family_id": {"exact_match": 25}},
    }
    tdx: dict[str, Any] = {
        "body": dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2"), pinned),
        "tcb": {"platform_tcb": "OutOfDate", "update": "standard"},
        "signature_data": {"qe_cert_data": {"qe_report": {"isv_svn": {"min_value": 1}}}},
    }
    flat = dict.fromkeys(("mr_td", "rtmr0", "rtmr1", "rtmr2"), pinned)
    sets: dict[str, Any] = {
        "any_of": [flat, {"body": {**flat, "xfam": {"deny_list": ["00" * 8]}}}],
        "tcb": {
            "qe_tcb": ["UpToDate", "SWHardeningNeeded"],
            "allowed_statuses": ["UpToDate", "TDRelaunchAdvised"],
            "min_evaluation_data_number": 17,
            "denied_advisories": ["INTEL-SA-00001"],
            "allowed_advisories": ["INTEL-SA-00837"],
        },
    }
    return [
        compact({"metadata": {"policy_type": "SNP", **about}, "validation_rules": snp}),
        compact({"metadata": {"policy_type": "TDX", **about}, "validation_rules": tdx}),
        compact({"metadata": {"policy_type": "intel-tdx", **about}, "validation_rules": flat, "signature": {}}),
        compact({"metadata": {"policy_type": "TDX", **about}, "validation_rules": sets}),
        compact(
            {
                "metadata": {"policy_type": "SEV", **about},
                "validation_rules": {
                    "any_of": [{"measurement": pinned}, {"measurement": pinned, "vmpl": {"max_value": 1}}]
                },
            }
        ),
    ]


_TOML = b"""
[tas]
url = "https://tas.example:5000/prefix"
pins = ["spki:sha256:%b", "ca:sha256:%b"]
ca_file = "/etc/tee-agent/ca.pem"
api_key_file = "/etc/tee-agent/key"
[evidence]
tsm_root = "/sys/kernel/config/tsm/report"
[[volume]]
name = "data"
device = "UUID=4a041d8e-f6ab-47ec-b9e7-180d556a02cd"
policy_ids = ["a", "b"]
[boot]
deadline_seconds = 90.5
cmdline_allow = ["ro", "root="]
[daemon]
allow_users = ["root"]
key_lifetime_seconds = 3600
""" % (b"00" * 32, b"11" * 32)
_TOML_WORDS = (
    *(f"{name} = ".encode() for table in config.SECTIONS.values() for name in table),
    b"[[volume]]",
    b"'''",
    b'"""',
    b"0x",
    b"1979-05-27T07:32:00Z",
    b"inf",
    b"nan",
    b"http://localhost:1",
    b"[fe80::1]",
)

TARGETS = {
    "core.der": Target(elements, lambda s: [*s.certificates(*s.chips, s.domain)], DER_WORDS, ("roots/*.pem",), 4096),
    "core.names": Target(names, lambda s: [*s.certificates(*s.chips, s.domain)], DER_WORDS, ("roots/*.pem",), 4096),
    "core.canonical": Target(canonical_json, lambda s: [b'{"a":[1,true,null,"\xc3\xa9\\n"],"b":{"":-1}}'], JSON_WORDS),
    "core.bundle": Target(
        bundles,
        lambda s: [made for signer in s.signers for made in (signer.bundle().encode(), signer.fresh_bundle().encode())],
        (*JSON_WORDS, b"endorsements", b"claims_unverified", b"tree_size", b'"fresh":null'),
        most=24576,
    ),
    "core.statement": Target(
        statement,
        lambda s: [replace(one.statement, storage=kept).canonical() for one in s.signers for kept in sorted(STORAGES)],
        (*JSON_WORDS, b'"storage":"', b'"memory"', b"snp-derived"),
        most=4200,
    ),
    "core.policy": Target(
        policies,
        policy_seeds,
        (*JSON_WORDS, *(f'"{name}":'.encode() for name in rules.RULES), b"TDX", b"SNP", b"body", b"0x", b"any_of"),
        most=4096,
    ),
    "core.fields": Target(
        floors,
        lambda s: [compact(found) for found in _evidence().values()],
        (*JSON_WORDS, b"measurement", b"mr_td", b"policy", b"td_attributes", b"cpuid", b"1.2.3", b"0x00"),
        most=12288,
    ),
    "core.answers": Target(
        answers, _answer_seeds, (*JSON_WORDS, b"secret_key", b"wrapped_key", b"QUVTLUtXUA=="), most=2048
    ),
    "core.config": Target(toml, lambda s: [_TOML], _TOML_WORDS, most=6144),
    "core.crypttab": Target(
        crypttabs, lambda s: [b"# a\nroot UUID=1-2 none luks,discard\ndata /dev/vdb /key x=1\n"], (b"#", b"\t", b",")
    ),
    "core.cmdline": Target(
        command_line,
        lambda s: [b"BOOT_IMAGE=/vmlinuz root=UUID=1-2 ro quiet console=ttyS0,115200\n"],
        (b"root=", b" ", b"ro", b"init=", b"console="),
        most=4200,
    ),
}
