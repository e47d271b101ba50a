"""``sd_notify`` (man 3 sd_notify) by its socket: tell systemd that the node is ready, alive, or ending.

Without the variables that systemd sets nothing happens.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, STOPPING, WATCHDOG = "READY=1", "STOPPING=1", "WATCHDOG=1"


def notify(*lines: str) -> bool:
    """Send ``lines``, e.g. ``READY=1`` or ``STATUS=…``; whether somebody was there to get them."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto("\n".join(lines).encode(), address)
        return True
    return False


def watchdog_s() -> float | None:
    """How often systemd wants `WATCHDOG` at least, in seconds; None where it does not."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (process.isdigit() and int(process) != os.getpid()):
        return None
    return int(microseconds) / 1e6 or None
