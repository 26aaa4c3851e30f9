"""`python3 tee-agent-verify.pyz FILE ...`: the command `tee-agent verify` alone, for relying parties on any system."""

from __future__ import annotations

import importlib
import sys

MISSING = 69


def main() -> int:
    """Its exit status; 69 where Python or cryptography is missing or too old."""
    try:
        cli = importlib.import_module("agent.cli")
        importlib.import_module("agent.commands.verify")
    except ImportError as error:
        sys.stderr.write(
            f"tee-agent-verify: {error}\n"
            "  it needs Python 3.11 and the package cryptography, 43 or newer: python3 -m pip install cryptography\n"
            "  [platform]\n"
        )
        return MISSING
    words = sys.argv[1:]
    status: int = cli.main(words if words == ["--version"] else ["verify", *words])
    return status


if __name__ == "__main__":
    sys.exit(main())
