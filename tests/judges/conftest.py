"""The simulator's keys, made once per worker."""

from __future__ import annotations

from tests.support.simulator import pki_state

__all__ = ["pki_state"]
