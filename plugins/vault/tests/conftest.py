"""One OpenBao for all tests of the Vault store. Each test has its own engine, policy and role."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.openbao import OpenBao

pytest.register_assert_rewrite("tests.helpers.traffic")


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture(scope="module")
def mortal_bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """An OpenBao that the tests of a module may seal and kill. Each test leaves it running and unsealed."""
    with OpenBao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server
