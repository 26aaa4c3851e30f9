"""Targets: the access policy's rules, and the audit log's lines and what a log is held against."""

from __future__ import annotations

from agent.core import audit
from agent.core.access import Members, Rules, Who, Wish
from agent.core.accessparse import Accounts
from agent.core.accessrule import OPERATIONS
from agent.core.auditpoints import Held, of_heads
from agent.core.audittail import tail
from agent.core.canonical import MAX_INTEGER, encode, parse
from agent.core.errors import ConfigError, TeeAgentError
from tests.fuzz.contract import Broken, Target
from tests.fuzz.on_core import JSON_WORDS

ACCOUNTS = Accounts({"root": 0, "app": 1000}.get, {"app": 1000, "ops": 2000}.get)
CALLERS = (
    Who(0, 0, frozenset(), "", "", True),
    Who(1000, 1000, frozenset({2000}), "app.service", "", True),
    Who(1001, 1001, frozenset(), "shop@1.service", "ab" * 32, False),
)
WISHES = (
    *(Wish(operation) for operation in sorted(OPERATIONS)),
    Wish("sign", key="uid-1000/app", use="jws", format="jws", context="orders", audience="shop"),
    Wish("sign", key="", use="bundle", format="bundle"),
    Wish("secret", secret="db"),
    Wish("keys.create", key="a", use="raw", persistent=True),
)
RULES = b"""[[rule]]
name = "app"
effect = "allow"
who = {user = "app", group = ["2000", "app"], unit = "app.service", container = "%b"}
operations = ["sign"]
keys = ["uid-1000/*", "agent"]
uses = ["jws", "bundle"]
formats = "jws"
contexts = ["orders", "a*"]
audiences = ["shop", ""]
namespace = "app"

[[rule]]
name = "no"
effect = "deny"
who = {unit = "shop@1.service"}
operations = "*"
""" % (b"ab" * 32)
_SECRETS = b"""[[rule]]
name = "secrets"
effect = "allow"
who = {user = "root"}
operations = "secret"
secrets = ["db", "app-*"]

[[rule]]
name = "brief"
effect = "allow"
who = {user = "app"}
operations = "keys.create"
persistent = false
"""
RULE_WORDS = (
    *(f'"{name}"'.encode() for name in sorted(OPERATIONS)),
    *(f"{name} = ".encode() for name in ("name", "effect", "who", "operations", "keys", "uses", "formats", "contexts")),
    *(f"{name} = ".encode() for name in ("audiences", "secrets", "namespace", "persistent")),
    b"true",
    b"false",
    b"[[rule]]",
    b"{user = ",
    b"{group = ",
    b"{unit = ",
    b"{container = ",
    b'"*"',
    b'"allow"',
    b'"deny"',
)


def rules(data: bytes) -> None:
    """Parsed, and asked about every operation: a decision names a rule, and no rule gives nobody anything."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8") from error
    found = Rules.parse({"10.toml": text}, accounts=ACCOUNTS, members=Members(frozenset({1000})))
    names = {rule.name for rule in found.rules} | {"default"}
    for caller in CALLERS:
        granted = False
        for wish in WISHES:
            decision, explained = found.decide(caller, wish), found.explain(caller, wish).decision
            if decision != explained or decision.rule not in names or not decision.reason:
                raise Broken("a decision is explained by another one")
            if decision.rule == "default" and found.rules and decision.allowed and caller.uid:
                raise Broken("something is given that no rule gives")
            granted |= decision.allowed
        if granted and not found.admits(caller):
            raise Broken("who may do something is not listened to")


def log(data: bytes) -> None:
    """Lines of a log, each read and written again, in a chain and out of it; and the end of one as recovery sees it."""
    for line in data.split(b"\n"):
        try:
            record = audit.read(line)
        except TeeAgentError:
            continue
        document = parse(line, "record", audit.MAX_LINE)
        document.pop("prev")
        if audit.record(record.prev, document) != line:
            raise Broken("a record does not come out as it went in")
    found = tail(data, whole=True)
    if len(found.torn) > len(data) or (found.last is None) != (not found.records):
        raise Broken("more is torn than there is")
    audit.verify(audit.split(data))


def heads(data: bytes) -> None:
    """What a service prints about heads, held against a log of one record."""
    points, unnamed = of_heads(parse(data, "list of audit heads", 1 << 20), "heads.json")
    if unnamed < 0 or any(not 0 <= point.seq <= MAX_INTEGER or len(point.digest) != 32 for point in points):
        raise Broken("a point that no log can have")
    held, line = Held(points), _line(0, audit.START)
    held.take(audit.read(line), audit.digest(line))
    held.end(0)
    if len(held.found) + len(held.older) + len(held.others) != len(points):
        raise Broken("a point was forgotten")


def _line(seq: int, prev: bytes) -> bytes:
    fields = {
        "seq": seq,
        "time": "2026-11-22T12:00:00Z",
        "boot_id": "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11",
        "kind": audit.FILE if seq == 0 else "key.created",
        "severity": "info",
        "caller": None if seq == 0 else {"uid": 0, "gid": 0, "unit": "a.service", "container": ""},
        "fields": {"key": "n/a", "generation": 1, "statement": "ab" * 64},
    }
    return audit.record(prev, fields)


def _log() -> bytes:
    first = _line(0, audit.START)
    return first + b"\n" + _line(1, audit.digest(first)) + b"\n"


def _heads() -> bytes:
    head = {
        "boot_id": "6a1c1f0e-5b1d-4f57-9f5a-0e6d2f0c9b11",
        "seq": 0,
        "head": audit.digest(_line(0, audit.START)).hex(),
        "statement": "ab" * 64,
        "alert": "",
    }
    return encode({"heads": [head, {**head, "seq": None, "head": ""}], "alerts": 0})


TARGETS = {
    "core.access": Target(rules, lambda _: [RULES, _SECRETS, RULES + _SECRETS], RULE_WORDS, most=4096),
    "core.audit": Target(log, lambda _: [_log()], (*JSON_WORDS, b'"prev":"', b'"kind":"log.file"', b"\n"), most=4096),
    "core.heads": Target(heads, lambda _: [_heads()], (*JSON_WORDS, b'"seq":', b'"head":"'), most=2048),
}
