"""Fixtures of the security tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.openbao import OpenBao


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """An OpenBao; each test has an engine, a policy and a role of its own."""
    with OpenBao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server
