"""One JSON line for each decision and event. What goes in is chosen by the caller: names, codes and verdicts.

Never a nonce, evidence, a key or a secret. A client's free text never either: only ids of a checked form.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from typing import TextIO

Value = str | int | bool | list[str] | None


class Log:
    """Lines to ``stream``, whole and in order, from any thread. A reader that went away is not an error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def event(self, event: str, **fields: Value) -> None:
        """``{"time", "event", ...}``; fields that are None are left out."""
        known = {name: value for name, value in fields.items() if value is not None}
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **known})
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except OSError:
            # Nobody reads the log any more. Serving goes on: boots of others depend on it.
            return
