"""Notify systemd of the server's state (`Type=notify`, sd_notify(3)), through the socket in $NOTIFY_SOCKET."""

from __future__ import annotations

import logging
import os
import socket
import time

__all__ = ["notify_ready", "notify_reloading", "notify_stopping"]

logger = logging.getLogger("kes.server")


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


def _notify(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.sendall(message.encode("utf-8"))
    except OSError as error:
        logger.warning("can't notify systemd of the server's state: %s", error.strerror)
