"""Fixtures for the tests of the KMS plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kes_kubernetes import KMSConfig
from tests.helpers.fixtures import run_server
from tests.helpers.kms import IDENTITY, Client, Running, connected

__all__ = ["run_frontend", "run_server"]

Run = Callable[..., AbstractContextManager[tuple[Running, Client]]]


@pytest.fixture
def run_frontend(tmp_path: Path) -> Run:
    """Run a front end with fields of its section, on `tmp_path`; yields it and a client."""
    tmp_path.chmod(0o700)

    @contextmanager
    def run(**fields: Any) -> Iterator[tuple[Running, Client]]:
        config = KMSConfig.model_validate({"socket": "s", "key": "my-key", "identity": IDENTITY} | fields)
        running = Running(config, tmp_path)
        try:
            running.run(running.frontend.start())
            with connected(running.socket) as client:
                yield running, client
            running.run(running.frontend.stop())
        finally:
            running.end()

    return run
