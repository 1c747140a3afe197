"""Servers with several worker processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.server import Server

WORKERS = 3


def start_with_workers(
    run_server: Callable[..., Server], tmp_path: Path, overrides: dict[str, Any] | None = None, **options: Any
) -> Server:
    """Start a server with `WORKERS` processes that share a store in files."""
    store = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "workers": WORKERS}
    return run_server({**store, **(overrides or {})}, **options)


def workers_of(server: Server) -> list[int]:
    """Return the process IDs of the workers."""
    task = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(number) for number in task.read_text().split()]
