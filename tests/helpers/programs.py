"""Programs from Debian's packages, and free ports for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom

import pytest


def program(name: str, package: str) -> str:
    """Return the path of a program from Debian's `package`. A test without it is skipped, or fails in CI."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        text = f"{name} is not installed (Debian's package {package})"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return path


def free_port() -> int:
    """Return a free port, for a server that does not choose one itself.

    It is outside of the range from which the system takes the ports of connections, and of servers that ask for any.
    So no other program gets it before the server has it.
    """
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports: Sequence[int] = [*range(10_000, low), *range(high + 1, 65_536)] or range(10_000, 65_536)
    while True:
        port = SystemRandom().choice(ports)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
