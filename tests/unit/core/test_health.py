"""What makes a machine healthy, and what the screen says when it is not."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.core.health import age, healthy, judge, screen

AT = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
KEY = {
    "id": "ab" * 32,
    "algorithm": "Ed25519",
    "use": "bundle",
    "statement": {"created": "2026-11-22T11:00:00Z", "expires": "2026-11-23T11:00:00Z"},
    "evidence": {"age_seconds": 3600},
}
GOOD: dict[str, Any] = {
    "tee": {
        "tee": "amd-sev-snp",
        "provider": "sev_guest",
        "interface": "configfs-tsm",
        "privlevel_floor": 0,
        "problem": None,
    },
    "initramfs": {"state": "yes", "reason": "as predicted"},
    "agent": {
        "state": "running",
        "reason": "",
        "hint": "",
        "status": {
            "version": "0.1.0",
            "ready": True,
            "key": KEY,
            "trouble": None,
            "connections": 1,
            "ssh": {"socket": None, "connections": 0},
            "notes": [],
            "processes": {"signer": {"pid": 10}, "quoter": {"pid": 11}, "fetcher": {"pid": 12}},
        },
    },
    "service": {"state": "reachable", "url": "https://tas", "version": "0.1.0", "reason": "", "code": ""},
    "volumes": [
        {
            "name": "data",
            "device": "/dev/vdb",
            "state": "bound",
            "slot": 1,
            "foreign_slots": [0],
            "key_id": "p",
            "generation": 1,
            "intact": True,
            "problem": "",
            "problem_code": "",
        }
    ],
}


def broken(path: str, value: Any) -> dict[str, Any]:
    facts = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place: Any = facts
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    return facts


def test_a_good_machine_is_healthy_and_says_all() -> None:
    findings = judge(GOOD, AT)
    text = screen(findings)
    assert healthy(findings)
    for words in (
        "amd-sev-snp",
        "yes: as predicted",
        "made 60 min ago",
        "https://tas answers",
        "keyslot 1",
        "signer 10",
    ):
        assert words in text


def test_the_socket_for_ssh_is_named_where_it_is_served() -> None:
    assert "ssh clients" not in screen(judge(GOOD, AT))
    served = broken("agent.status.ssh.socket", "/run/tee-agent/ssh.sock")
    assert "1 connection, ssh clients at /run/tee-agent/ssh.sock" in screen(judge(served, AT))


PROBLEM = {"code": "platform.no-tee", "message": "no TEE here", "hint": "modprobe"}


@pytest.mark.parametrize(
    ("path", "value", "subject", "words"),
    [
        ("tee.problem", PROBLEM, "TEE", "no TEE here"),
        ("initramfs.state", "no", "initramfs measured", "no: as predicted"),
        ("agent.status.ready", False, "agent", "can't sign"),
        ("agent.status", None, "agent", "running"),
        ("agent.status.key.statement.expires", "2026-11-22T11:59:59Z", "key", "EXPIRED"),
        ("agent.status.processes.quoter.pid", None, "processes", "no answer from quoter"),
        ("service.state", "unreachable", "TAS", "https://tas"),
        ("volumes.0.state", "not bound", "volume data", "not bound"),
        ("volumes.0.state", "pending", "volume data", "pending"),
        ("volumes.0.state", "stale", "volume data", "stale"),
        ("volumes.0.state", "refused", "volume data", "refused"),
        ("volumes.0.intact", False, "volume data", "damaged"),
    ],
)
def test_each_fault_is_a_problem_of_its_own(path: str, value: Any, subject: str, words: str) -> None:
    findings = judge(broken(path, value), AT)
    problems = [finding for finding in findings if finding.state == "PROBLEM"]
    assert not healthy(findings)
    assert [finding.subject for finding in problems] == [subject]
    assert words in problems[0].text


@pytest.mark.parametrize(
    ("path", "value", "subject"),
    [
        ("tee.problem", {**PROBLEM, "code": "platform.permission"}, "TEE"),
        ("initramfs.state", "unknown", "initramfs measured"),
        ("service.state", "not-configured", "TAS"),
        ("service.state", "not asked", "TAS"),
        ("agent.status.notes", ["memory not locked"], "agent"),
    ],
)
def test_what_can_t_be_seen_is_a_note(path: str, value: Any, subject: str) -> None:
    findings = judge(broken(path, value), AT)
    assert healthy(findings)
    assert subject in [finding.subject for finding in findings if finding.state == "note"]


def test_without_permission_the_agent_is_a_note() -> None:
    facts = broken("agent", {"state": "no permission", "reason": "uid 7", "hint": "", "status": None})
    assert healthy(judge(facts, AT))


@pytest.mark.parametrize(
    ("seconds", "words"), [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_age(seconds: float, words: str) -> None:
    assert age(seconds) == words


OPENED = {"name": "root", "how": "attestation", "pinned": False, "code": "", "message": "", "hint": ""}
BOOT: dict[str, Any] = {
    "outcome": "unlocked",
    "timeline": {"network": 8.5, "mapped": 10.25},
    "volumes": [OPENED],
    "notices": [],
    "root": ["root"],
}


def boot_findings(**changes: Any) -> list[tuple[str, str, str]]:
    findings = judge({**GOOD, "boot": {**BOOT, **changes}}, AT)
    return [(f.state, f.text, f.hint) for f in findings if f.subject == "boot"]


def test_an_unattended_boot_is_fine() -> None:
    assert boot_findings() == [("ok", "root opened by attestation, 1.8 s after the network", "")]
    assert not [f for f in judge({**GOOD, "boot": None}, AT) if f.subject == "boot"]
    assert boot_findings(outcome="idle") == []


@pytest.mark.parametrize("pinned", [True, False])
def test_a_typed_passphrase_is_a_problem_and_says_why(pinned: bool) -> None:
    typed = {**OPENED, "how": "passphrase", "pinned": pinned, "code": "transport.refused", "message": "no answer"}
    ((state, text, hint),) = boot_findings(volumes=[typed])
    assert (state, hint) == ("PROBLEM", "[transport.refused]")
    assert "no answer" in text
    assert ("not pinned" in text) is not pinned


def test_an_unchecked_root_and_notices_are_noted() -> None:
    states = [state for state, _, _ in boot_findings(root=[], notices=["an added root of trust"])]
    assert states == ["ok", "note", "note"]


def audit_findings(trouble: dict[str, str] | None = None, **counts: int) -> list[tuple[str, str]]:
    hour = {"info": 5, "notice": 1, "warning": 0, "alert": 0, **counts}
    facts = broken("agent.status.audit", {"seq": 7, "trouble": trouble, "last_hour": hour})
    found = judge(facts, AT)
    return [(finding.state, finding.text) for finding in found if finding.subject == "audit"]


@pytest.mark.parametrize(
    ("heads", "state", "words"),
    [
        ("kept", "ok", "has the audit log's head"),
        ("not-kept", "note", "does not take audit heads"),
        ("refused", "note", "refused: because"),
        ("failed", "note", "failed: because"),
    ],
)
def test_what_became_of_the_audit_head(heads: str, state: str, words: str) -> None:
    facts = broken("service", {**GOOD["service"], "heads": heads, "head_reason": "because"})
    (found,) = [finding for finding in judge(facts, AT) if finding.subject == "audit head"]
    assert found.state == state
    assert words in found.text
    assert healthy(judge(facts, AT))


def test_the_audit_log_s_last_hour_is_on_the_screen() -> None:
    assert audit_findings() == [("ok", "record 7; in the last hour nothing to look at")]
    assert audit_findings(warning=3) == [("note", "record 7; in the last hour 3 of severity warning")]
    assert audit_findings(warning=3, alert=1)[0][0] == "PROBLEM"
    trouble = {"code": "server.audit", "message": "can't be written", "hint": "free space"}
    assert audit_findings(trouble)[0] == ("PROBLEM", "can't be written")


def test_the_root_of_sealed_data() -> None:
    def found(root: str, name: str = "", trouble: dict[str, str] | None = None) -> list[tuple[str, str]]:
        facts = broken("agent.status.sealing", {"root": root, "id": name, "secrets": 0, "trouble": trouble})
        return [(one.state, one.text) for one in judge(facts, AT) if one.subject == "sealing"]

    assert found("none") == []
    assert found("tas") == [("ok", "root tas, asked for when it is needed")]
    assert found("tas", "tas:p:00") == [("ok", "root tas:p:00")]
    refused = {"code": "secret.refused", "message": "not released", "hint": "look there"}
    assert found("tas", "", refused) == [("PROBLEM", "the root (tas) can't be had: not released")]


def test_no_verdicts_for_apps_is_a_problem_that_says_what_to_do() -> None:
    def found(status: Any) -> list[tuple[str, str, str]]:
        facts = broken("agent.status.verification", status)
        return [(one.state, one.text, one.hint) for one in judge(facts, AT) if one.subject == "verification"]

    assert found({"trouble": None}) == []
    gone = {"code": "server.verify", "message": "they were ended", "hint": "restart"}
    assert found({"trouble": gone}) == [("PROBLEM", "they were ended", "restart")]


def kept_findings(**found: Any) -> list[tuple[str, str, str]]:
    nothing = {"open": True, "keys": 0, "locked": 0, "broken": 0, "unwritten": 0, "serial": 0}
    facts = broken("agent.status.persistent_keys", {**nothing, "trouble": None, "doubts": [], "notes": [], **found})
    return [(one.state, one.text, one.hint) for one in judge(facts, AT) if one.subject == "persistent keys"]


def test_persistent_keys_are_counted_by_what_they_are() -> None:
    listing = "tee-agent keys list"
    assert kept_findings() == []
    assert kept_findings(keys=3) == [("ok", "3 usable", "")]
    assert kept_findings(keys=3, locked=1) == [("note", "3 usable, 1 locked", listing)]
    assert kept_findings(locked=1, broken=2) == [("PROBLEM", "1 locked, 2 broken", listing)]
    trouble = {"code": "server.storage", "message": "the disk is full", "hint": "free space"}
    assert kept_findings(trouble=trouble) == [("PROBLEM", "the disk is full", "free space")]
    ((state, text, _),) = kept_findings(doubts=["the keys were put back"])
    assert (state, text) == ("PROBLEM", "the keys were put back")
    assert kept_findings(notes=["'x' is no file of this agent's"]) == [("note", "'x' is no file of this agent's", "")]
