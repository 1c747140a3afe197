"""The server as a service of systemd: it reports its state and takes over listening sockets.

Reports are lines to the socket in $NOTIFY_SOCKET (`Type=notify`, sd_notify(3)). A socket unit makes systemd keep the
listening sockets while the server restarts, so that clients wait instead of being refused (sd_listen_fds(3)).
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from typing import Final

__all__ = ["notify_alive", "notify_ready", "notify_reloading", "notify_stopping", "passed_descriptors", "watchdog_time"]

logger = logging.getLogger("kes.server")

_FIRST_DESCRIPTOR: Final = 3


def passed_descriptors() -> list[tuple[str, int]]:
    """Return the name and the number of each descriptor that systemd passed to this process.

    This clears the environment variables, so that no other process takes the descriptors for its own.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    numbers = range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count))
    for number in numbers:
        with contextlib.suppress(OSError):  # not open: whoever uses the number reports it
            os.set_inheritable(number, False)
    known = names.split(":") if names else []
    return list(zip(known + [""] * (len(numbers) - len(known)), numbers, strict=False))


def notify_ready(status: str) -> None:
    """Report that the server is ready, after its start or a reload."""
    _notify(f"READY=1\nSTATUS={status}")


def notify_reloading() -> None:
    """Report that the server reloads its configuration."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _notify(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")


def notify_stopping() -> None:
    """Report that the server stops."""
    _notify("STOPPING=1")


def notify_alive() -> None:
    """Report that the process still runs, if systemd wants to know (`WatchdogSec=`)."""
    if watchdog_time() is not None:
        with contextlib.suppress(OSError):  # other reports have logged it
            _send("WATCHDOG=1")


def watchdog_time() -> float | None:
    """Return the seconds within which systemd wants to hear of this process (sd_watchdog_enabled(3)); None if never."""
    time_limit, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not time_limit.isdecimal() or pid not in {"", str(os.getpid())} or "NOTIFY_SOCKET" not in os.environ:
        return None
    return int(time_limit) / 1e6 or None


def _notify(message: str) -> None:
    try:
        _send(message)
    except OSError as error:
        logger.warning("can't notify systemd of the server's state: %s", error.strerror)


def _send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        sock.sendall(message.encode("utf-8"))
