"""Records of the audit log for people, and as JSON for programs. What they quote is foreign: it comes out escaped."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from agent.auditlog import Line
from agent.core.audit import Record
from agent.core.canonical import printable, rfc3339, shown

WORDS: Mapping[str, str] = {
    "log.file": "a file begins ({reason})",
    "log.torn": "the end of the log was torn by a kill: {bytes} bytes are in {file}",
    "log.lost": "{events} events could not be kept while the log could not be written",
    "log.resumed": "the log is written again; {reason}",
    "agent.started": "the signer started, version {version}",
    "key.attested": "the agent's own key is {key_id}, for {use}",
    "tcb.changed": "evidence speaks for another TCB ({after}) than before ({before}): all keys get new evidence",
    "key.created": "key {key} was made: generation {generation}, {algorithm}, for {use}",
    "key.restored": "key {key}, generation {generation}, has evidence of this boot",
    "key.broken": "the file of key {key} can't be used: {reason}",
    "keys.opened": "persistent keys were read: {keys}, state {serial}; {broken} broken, {removed} files removed",
    "keys.changed": "the folder of persistent keys changed for {key}: state {serial}",
    "keys.strange": "in the folder of persistent keys: {note}",
    "key.rotated": "key {key} was rotated: generation {generation} is its newest",
    "key.destroyed": "key {key} was destroyed",
    "key.ended": "generation {generation} of key {key} came to its end",
    "key.signed": "{count} signatures by key {key_id} at {second}",
    "key.signed.others": "{count} more signatures, of callers and keys too many to count one by one",
    "sealing.opened": "the root of sealed data is there: {root}",
    "secret.released": "the secret {secret} was released",
    "data.sealed": "sealed {count} times at {second}",
    "data.unsealed": "unsealed {count} times at {second}",
    "data.refused": "{count} times at {second} what was to be unsealed was another caller's or context's, or changed",
    "head.kept": "the attestation service has this log's head up to record {record}",
    "head.contradicted": "the attestation service has another head of this boot than that of record {record}",
    "policy.loaded": "the access policy was read again: {rules} rules are in force",
    "policy.kept": "the access policy is broken, the old {rules} rules stay: {message} [{code}]",
    "boot.attested": "early boot opened {volume} by attestation",
    "boot.passphrase": "early boot opened {volume} by a typed passphrase; attestation had failed: {message} [{code}]",
    "boot.failed": "early boot did not open {volume}: {message} [{code}]",
    "denied": "{operation} was refused: {reason} (rule {rule})",
    "denied.more": "{count} more refusals, too many to tell one by one",
    "failed.more": "{what}: {count} more times",
    "failed": "{what}: {message} [{code}]",
}
_SHOWN_SEPARATELY = frozenset({"reason", "rule", "operation"})


def words(line: Line) -> str:
    """One line of text, without newline."""
    record = line.record
    if record is None:
        return f"?  no record of an audit log: {shown(line.raw.decode('utf-8', 'replace'), 200)}"
    who = _who(record)
    said = _said(record)
    return f"{rfc3339(record.time)}  {record.severity:<7}  {said}{f'; by {who}' if who else ''}"


def _said(record: Record) -> str:
    known = WORDS.get(record.kind)
    fields = {name: printable(str(value)) for name, value in record.fields.items()}
    if known is None or not _names(known) <= fields.keys():
        return " ".join([record.kind, *(f"{name}={shown(str(value), 200)}" for name, value in record.fields.items())])
    wish = " ".join(f"{name}={shown(str(value))}" for name, value in record.fields.items() if _is_wish(record, name))
    return known.format_map(fields) + (f" ({wish})" if wish else "")


def _names(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def _is_wish(record: Record, name: str) -> bool:
    """What a refused caller wanted, beside the operation."""
    return record.kind == "denied" and name not in _SHOWN_SEPARATELY


def _who(record: Record) -> str:
    caller = record.caller
    if caller is None:
        return ""
    place = [f"{name} {printable(caller[name])}" for name in ("unit", "container") if caller[name]]
    return ", ".join([f"uid {caller['uid']}, gid {caller['gid']}", *place])


def record_json(line: Line) -> dict[str, Any]:
    """The record as it stands in the log, or ``{"damaged": text}``."""
    record = line.record
    if record is None:
        return {"damaged": line.raw.decode("utf-8", "replace")}
    return {
        "seq": record.seq,
        "time": rfc3339(record.time),
        "boot_id": record.boot_id,
        "kind": record.kind,
        "severity": record.severity,
        "caller": record.caller,
        "fields": record.fields,
        "prev": record.prev.hex(),
    }
