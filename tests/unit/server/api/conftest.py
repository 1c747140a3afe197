"""Clients of the server of a module: its fixture `server`."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from kes_core.client import Client
from kes_core.testing import FakeServer


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(transport=server.transport()) as connected:
        yield connected


@pytest.fixture
def http(server: FakeServer) -> Iterator[httpx.Client]:
    with httpx.Client(transport=server.transport(), base_url="https://server") as connected:
        yield connected
