"""Judges what was gathered about this machine: facts in, findings out. Pure; the facts' shapes are agent.health's.

A finding is ``ok``, ``note`` (worth knowing, nothing to mend) or ``PROBLEM``. Healthy means: no problem.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

State = Literal["ok", "note", "PROBLEM"]
Facts = Mapping[str, Any]
WIDTH = 110
"""Columns of the screen, unless a word is longer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the screen. ``hint`` says what to do about a problem, "" where there is nothing to say."""

    subject: str
    state: State
    text: str
    hint: str = ""


def judge(facts: Facts, at: datetime) -> tuple[Finding, ...]:
    """All findings, in the order of the screen. ``at`` is now (aware)."""
    return (
        _tee(facts["tee"]),
        _initramfs(facts["initramfs"]),
        *_boot(facts.get("boot")),
        *_agent(facts["agent"], at),
        *_persistent(facts["agent"]["status"]),
        *_sealing(facts["agent"]["status"]),
        *_audit(facts["agent"]["status"]),
        *_verification(facts["agent"]["status"]),
        _service(facts["service"]),
        *_heads(facts["service"]),
        *(_volume(volume) for volume in facts["volumes"]),
        *_processes(facts["agent"]),
    )


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether none is a problem."""
    return all(finding.state != "PROBLEM" for finding in findings)


def screen(findings: Sequence[Finding]) -> str:
    """The findings as aligned lines, folded at WIDTH columns; hints follow indented."""
    margin = max(len(finding.subject) for finding in findings) + len("  PROBLEM  ")
    lines: list[str] = []
    for finding in findings:
        label = f"{finding.subject:<{margin - 11}}  {finding.state:<7}  "
        for text in (finding.text, *finding.hint.splitlines()):
            folded = textwrap.wrap(text, WIDTH - margin, break_on_hyphens=False, break_long_words=False)
            lines += [f"{label if index == 0 else '':<{margin}}{part}" for index, part in enumerate(folded)]
            label = ""
    return "\n".join(lines) + "\n"


def age(seconds: float) -> str:
    """A span in words: 42 s, 7 min, 3 h, 2 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _tee(tee: Facts) -> Finding:
    problem = tee["problem"]
    if problem is None:
        floor = "" if tee["privlevel_floor"] is None else f", lowest privilege level {tee['privlevel_floor']}"
        # The kernel's common interface goes without saying; where another one is in use, the reason is worth a line.
        why = f"; not configfs-tsm: {reason}" if (reason := tee.get("not_used", {}).get("configfs-tsm")) else ""
        return Finding("TEE", "ok", f"{tee['tee']} by {tee['provider']} ({tee['interface']}{floor}){why}")
    if problem["code"] == "platform.permission":
        seen = f"{tee['tee']}, as its device says; " if tee["tee"] else ""
        return Finding("TEE", "note", f"{seen}{problem['message']}", problem["hint"])
    return Finding("TEE", "PROBLEM", problem["message"], problem["hint"])


def _initramfs(measured: Facts) -> Finding:
    states: Mapping[str, State] = {"yes": "ok", "no": "PROBLEM"}
    state = measured["state"]
    hint = "boot with kernel hashes or as a unified kernel image: docs/prediction.md" if state == "no" else ""
    return Finding("initramfs measured", states.get(state, "note"), f"{state}: {measured['reason']}", hint)


def _boot(boot: Facts | None) -> Iterator[Finding]:
    """What early boot left; nothing where it had nothing to open."""
    if boot is None or boot["outcome"] == "idle":
        return
    typed = [volume for volume in boot["volumes"] if volume["how"] == "passphrase"]
    for volume in typed:
        pinned = "" if volume["pinned"] else "; the volume is not pinned, so nothing shows that it is yours"
        text = f"{volume['name']} was opened by a typed passphrase{pinned}. Attestation failed: {volume['message']}"
        yield Finding("boot", "PROBLEM", text, f"[{volume['code']}] {volume['hint']}".rstrip())
    names = ", ".join(volume["name"] for volume in boot["volumes"] if volume["how"] == "attestation")
    if names:
        times = boot["timeline"]
        took = f", {times['mapped'] - times['network']:.1f} s after the network" if "network" in times else ""
        yield Finding("boot", "ok", f"{names} opened by attestation{'' if typed else took}")
    if not boot["root"]:
        yield Finding("boot", "note", "root was not checked to lie on a volume opened in this boot ([boot] root_check)")
    for notice in boot["notices"]:
        yield Finding("boot", "note", notice)


def _agent(agent: Facts, at: datetime) -> Iterator[Finding]:
    status = agent["status"]
    if status is None:
        state: State = "note" if agent["state"] == "no permission" else "PROBLEM"
        yield Finding("agent", state, f"{agent['state']}: {agent['reason']}", agent["hint"])
        return
    if not status["ready"]:
        trouble = status["trouble"] or {"message": "no valid key yet", "hint": ""}
        yield Finding("agent", "PROBLEM", f"running, but can't sign: {trouble['message']}", trouble.get("hint", ""))
    else:
        ssh = f", ssh clients at {status['ssh']['socket']}" if status["ssh"]["socket"] else ""
        count = status["connections"]
        many = f"{count} connection{'' if count == 1 else 's'}"
        yield Finding("agent", "ok", f"running, version {status['version']}, {many}{ssh}")
    if status["key"]:
        yield _key(status["key"], at)
    for note in status["notes"]:
        yield Finding("agent", "note", note)


def _key(key: Facts, at: datetime) -> Finding:
    statement, evidence = key["statement"], key["evidence"]
    old = age((at - datetime.fromisoformat(statement["created"])).total_seconds())
    left = (datetime.fromisoformat(statement["expires"]) - at).total_seconds()
    text = f"{key['algorithm']} {key['id'][:16]}, made {old} ago, evidence {age(evidence['age_seconds'])} old"
    if left <= 0:
        return Finding("key", "PROBLEM", f"{text}, EXPIRED", "the agent renews it by itself: see its log")
    return Finding("key", "ok", f"{text}, valid for another {age(left)}")


def _persistent(status: Facts | None) -> Iterator[Finding]:
    """Keys on the disk; nothing where there are none and nothing is wrong with them."""
    found = status.get("persistent_keys") if status else None
    if not found:
        return
    if trouble := found["trouble"]:
        yield Finding("persistent keys", "PROBLEM", trouble["message"], trouble.get("hint", ""))
    counts = (("usable", found["keys"]), ("locked", found["locked"]), ("broken", found["broken"]))
    if any(count for _, count in counts):
        state: State = "PROBLEM" if found["broken"] else "note" if found["locked"] else "ok"
        text = ", ".join(f"{count} {word}" for word, count in counts if count)
        yield Finding("persistent keys", state, text, "" if state == "ok" else "tee-agent keys list")
    for doubt in found["doubts"]:
        yield Finding("persistent keys", "PROBLEM", doubt, "docs/keys.md, What the host can do")
    for note in found["notes"]:
        yield Finding("persistent keys", "note", note)


def _sealing(status: Facts | None) -> Iterator[Finding]:
    """The root of sealed data; nothing where none is configured."""
    found = status.get("sealing") if status else None
    if not found or found["root"] == "none":
        return
    if trouble := found["trouble"]:
        text = f"the root ({found['root']}) can't be had: {trouble['message']}"
        yield Finding("sealing", "PROBLEM", text, trouble.get("hint", ""))
    else:
        yield Finding("sealing", "ok", f"root {found['id'] or found['root'] + ', asked for when it is needed'}")


def _audit(status: Facts | None) -> Iterator[Finding]:
    """The audit log and what its last hour has; nothing where the agent says nothing of it."""
    found = status.get("audit") if status else None
    if not found:
        return
    if trouble := found["trouble"]:
        yield Finding("audit", "PROBLEM", trouble["message"], trouble.get("hint", ""))
    counts = {
        severity: found["last_hour"][severity] for severity in ("alert", "warning") if found["last_hour"][severity]
    }
    words = ", ".join(f"{count} of severity {severity}" for severity, count in counts.items())
    text = f"record {found['seq']}; in the last hour {words or 'nothing to look at'}"
    state: State = "PROBLEM" if "alert" in counts else "note" if counts else "ok"
    yield Finding("audit", state, text, "tee-agent audit tail" if counts else "")


def _verification(status: Facts | None) -> Iterator[Finding]:
    """Verdicts for apps; nothing where there are some."""
    trouble = status.get("verification", {}).get("trouble") if status else None
    if trouble:
        yield Finding("verification", "PROBLEM", trouble["message"], trouble.get("hint", ""))


def _service(service: Facts) -> Finding:
    state = service["state"]
    if state == "reachable":
        return Finding("TAS", "ok", f"{service['url']} answers, version {service['version']}")
    if state == "not-configured":
        return Finding("TAS", "note", "none configured: no secrets, no disk unlock")
    if state in ("checking", "not asked"):
        return Finding("TAS", "note", f"{service['url']}: {service['reason'] or 'first check under way'}")
    return Finding("TAS", "PROBLEM", f"{service['url']}: {service['reason']}", f"[{service['code']}]")


def _heads(service: Facts) -> Iterator[Finding]:
    """What became of the audit log's head at the service; nothing where none was sent."""
    words = {"kept": "has the audit log's head", "not-kept": "does not take audit heads: note them yourself"}
    if (heads := service.get("heads", "")) in words:
        yield Finding("audit head", "ok" if heads == "kept" else "note", f"{service['url']} {words[heads]}")
    elif heads:
        hint = "tee-agent audit verify --tas-heads" if heads == "refused" else ""
        yield Finding("audit head", "note", f"{service['url']}: {heads}: {service['head_reason']}", hint)


def _volume(volume: Facts) -> Finding:
    subject = f"volume {volume['name']}"
    others = f"{len(volume['foreign_slots'])} other keyslots"
    if volume["state"] == "bound":
        text = (
            f"bound, keyslot {volume['slot']}, policy {volume['key_id']}, generation {volume['generation']}; {others}"
        )
        if volume["intact"]:
            return Finding(subject, "ok", text)
        return Finding(subject, "PROBLEM", f"{text}; one of its two header copies is damaged", "cryptsetup repair")
    hints = {
        "not bound": f"tee-agent disk bind {volume['name']}",
        "pending": f"a bind was interrupted; run it again: tee-agent disk bind {volume['name']}",
        "stale": f"its keyslot is gone; bind it again: tee-agent disk bind {volume['name']}",
        "unreadable": "run as root, or see whether the device is there",
        "refused": "this header is not opened; restore it from a backup that you trust",
    }
    text = f"{volume['state']}: {volume['problem']}" if volume["problem"] else f"{volume['state']}, {volume['device']}"
    state: State = "note" if volume["problem_code"] == "platform.permission" else "PROBLEM"
    return Finding(subject, state, text, hints.get(volume["state"], ""))


def _processes(agent: Facts) -> Iterator[Finding]:
    status = agent["status"]
    if status is None:
        return
    processes = status["processes"]
    silent = [name for name, process in processes.items() if process["pid"] is None]
    pids = ", ".join(f"{name} {process['pid']}" for name, process in processes.items() if process["pid"])
    if silent:
        yield Finding(
            "processes", "PROBLEM", f"{pids}; no answer from {', '.join(silent)}", "systemctl restart tee-agent.target"
        )
    else:
        yield Finding("processes", "ok", pids)
