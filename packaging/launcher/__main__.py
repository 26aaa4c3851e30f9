"""`python3 -I -B /usr/lib/tee-agent`: the command line on the installed modules."""

from __future__ import annotations

import sys

from agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
