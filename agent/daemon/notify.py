"""Tells whoever started us how we are: systemd by sd_notify, our own supervisor by lines on a pipe.

READY once, STATUS in a sentence, and a sign of life at half the watchdog's interval where somebody asked for it.
"""

from __future__ import annotations

import asyncio
import os

from sdnotify import SystemdNotifier

PIPE = 1
"""Under the supervisor, standard output is the pipe to it; what would print there goes to standard error."""


class Notifier:
    """One way up. ``supervised``: lines on the pipe; else sd_notify, which does nothing without NOTIFY_SOCKET.

    Make it before privileges are dropped: the address may be out of reach afterwards.
    """

    def __init__(self, *, supervised: bool) -> None:
        self._systemd = None if supervised else SystemdNotifier()
        self._pipe = -1
        if supervised:
            self._pipe = os.dup(PIPE)
            # A supervisor that hangs must not hang its roles.
            os.set_blocking(self._pipe, False)
            os.dup2(2, PIPE)

    def say(self, line: str) -> None:
        """One line, such as READY=1 or STATUS=text. A reader that is gone is no error."""
        if self._systemd:
            self._systemd.notify(line)
            return
        try:
            os.write(self._pipe, line.encode()[:400].replace(b"\n", b" ") + b"\n")
        except OSError:
            return

    def ready(self, status: str) -> None:
        self.say(f"STATUS={status}")
        self.say("READY=1")

    def stopping(self) -> None:
        self.say("STOPPING=1")


def watchdog_seconds() -> float:
    """Half the interval that the watchdog allows, 0 where nobody watches (sd_watchdog_enabled(3))."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 2_000_000


async def keep_alive(notifier: Notifier, seconds: float) -> None:
    """Signs of life from the event loop itself: a loop that hangs sends none. Ends at once when nobody watches."""
    while seconds > 0:
        notifier.say("WATCHDOG=1")
        await asyncio.sleep(seconds)
