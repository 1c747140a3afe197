"""Programs from Debian's packages, and free ports for them."""

from __future__ import annotations

import os
import shutil
import socket

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
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
