"""Reports the daemon's state to the service manager: systemd's notification protocol over its socket.

It must not know the daemon. Without a manager that listens it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

SEND_SECONDS = 0.1


class Manager:
    """Who started this process and wants to hear of it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract name is written with an at sign.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environ)
        """How long this process may be silent before it is restarted; 0: as long as it likes."""

    def notify(self, *lines: str) -> None:
        """Says, for example, READY=1; a manager that is gone or does not listen is not an error."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            # The event loop must not wait for a manager that reads nothing: heartbeats would stop.
            sending.settimeout(SEND_SECONDS)
            sending.connect(self._address)
            sending.sendall("\n".join(lines).encode())

    async def keep_alive(self) -> None:
        """Proves for ever that the event loop turns."""
        while self.watchdog_seconds:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds / 3)


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    text = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID") or str(os.getpid())
    return int(text) / 1e6 if text.isdecimal() and meant_for == str(os.getpid()) else 0.0
