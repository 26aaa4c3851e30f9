"""Fields of imaginary evidence, and policies over them, for tests of appraisal."""

from __future__ import annotations

from typing import Any

from agent.core.policy import Policy, evaluate

M = "ab" * 48
TCB = {"raw": "0x541900000000000a", "bootloader": 10, "tee": 0, "snp": 25, "microcode": 84}
SNP: dict[str, Any] = {
    "version": 3,
    "vmpl": 0,
    "guest_svn": 2,
    "policy": "0x0000000000030000",
    "policy_bits": {"smt": True, "migrate_ma": False, "debug": False, "single_socket": False},
    "platform_info": "0x0000000000000025",
    "key_flags_raw": "0x00000000",
    "measurement": M,
    "host_data": "00" * 32,
    "id_key_digest": "1d" * 48,
    "author_key_digest": "a0" * 48,
    "family_id": "fa" * 16,
    "image_id": "1a" * 16,
    "chip_id": "0c" * 64,
    **{f"{name}_tcb": dict(TCB) for name in ("current", "reported", "committed", "launch")},
    "cpuid": {"family": 25, "model": 17, "stepping": 1},
    "current_version": "1.55.43",
    "committed_version": "1.55.40",
    "launch_mit_vector": "0x0000000000000001",
}
TDX: dict[str, Any] = {
    "header": {"version": 5, "tee_type": "0x00000081"},
    "tee_tcb_svn": "07010300" + "00" * 12,
    "mr_seam": "5e" * 48,
    "mr_signer_seam": "00" * 48,
    "seam_attributes": "00" * 8,
    "td_attributes": "0000001000000000",
    "xfam": "e718060000000000",
    "mr_td": M,
    "mr_config_id": "00" * 48,
    "mr_owner": "00" * 48,
    "mr_owner_config": "00" * 48,
    **{f"rtmr{index}": f"{index:02x}" * 48 for index in range(4)},
    "tee_tcb_svn_2": "07010300" + "00" * 12,
    "mr_service_td": "00" * 48,
    "td_debug": False,
    "qe": {"isvsvn": 8, "mrsigner": "0d" * 32},
    "fmspc": "90c06f000000",
    "tcb": {
        "platform_tcb": "UpToDate",
        "tdx_module_tcb": "UpToDate",
        "qe_tcb": "UpToDate",
        "status": "UpToDate",
        "advisories": ["INTEL-SA-00837"],
        "evaluation_data_number": 17,
    },
}
REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2")
PINNED = {name: {"exact_match": TDX[name]} for name in REGISTERS}


def document(kind: str = "SEV", rules: Any = None, **metadata: Any) -> dict[str, Any]:
    """A policy that pins the workload of the fields above, with further ``rules`` over the top."""
    base = {"measurement": {"exact_match": M}} if kind == "SEV" else PINNED
    meta = {"policy_type": kind, "policy_id": "web-1", "key_id": "disk", **metadata}
    return {"metadata": meta, "validation_rules": {**base, **(rules or {})}}


def decide(fields: dict[str, Any], rules: dict[str, Any], kind: str = "SEV") -> bool:
    """Whether all checks of ``document(kind, rules)`` hold; they are numbered without a gap."""
    checks = evaluate(Policy.parse(document(kind, rules)), fields)
    assert [check.number for check in checks] == list(range(1, len(checks) + 1))
    return all(check.ok for check in checks)
