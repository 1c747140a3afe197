"""Fixtures that start servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.server import Server, start_server


@pytest.fixture
def run_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers as `tests.helpers.server.start_server` does, and stop them at the end of the test."""
    servers: list[Server] = []

    def run(overrides: Any = None, **options: Any) -> Server:
        directory = options.pop("directory", tmp_path)
        server = start_server(directory, overrides, **options)
        servers.append(server)
        return server

    yield run
    for server in servers:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the in-memory store, shared by the tests of a module."""
    server = start_server(tmp_path_factory.mktemp("server"))
    yield server
    assert server.stop() == 0, "\n".join(server.errors)
