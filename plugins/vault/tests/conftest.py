"""One OpenBao for all tests of the Vault store; each has an engine, a policy and a role of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.openbao import OpenBao

pytest.register_assert_rewrite("tests.traffic")


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("openbao"))
    server.start()
    server.initialize()
    yield server
    server.stop()


@pytest.fixture
def own_bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """An OpenBao that a test may seal and kill."""
    server = OpenBao(tmp_path_factory.mktemp("openbao"))
    server.start()
    server.initialize()
    yield server
    server.stop()
