"""The endorsements folder: what a verifier may be handed beside evidence, and the root it may choose to trust."""

from __future__ import annotations

from pathlib import Path

from sim import keys
from sim.psp import SecureProcessor
from sim.qe import QuotingEnclave

Machine = SecureProcessor | QuotingEnclave


def export(machine: Machine, folder: Path) -> None:
    """Write certs/NAME.pem, crls/NAME.der, root.pem and, for TDX, tcb_info.json and qe_identity.json.

    Raises OSError. Every file is replaced in one step; files of other names are left alone.
    """
    files = {"root.pem": keys.pem(machine.root)}
    files |= {f"certs/{name}.pem": keys.pem_of(certificate) for name, certificate in machine.certificates().items()}
    files |= {f"crls/{name}.der": crl for name, crl in machine.crls().items()}
    if isinstance(machine, QuotingEnclave):
        files |= {"tcb_info.json": machine.tcb_info, "qe_identity.json": machine.qe_identity}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        keys.write_atomically(path, content)
