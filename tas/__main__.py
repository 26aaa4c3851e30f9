"""``python -m tas``."""

from __future__ import annotations

import sys

from tas.cli import main

sys.exit(main())
