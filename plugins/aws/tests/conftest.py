"""One moto server for all tests of the AWS store; each test has a region of its own."""

from __future__ import annotations

from collections.abc import Iterator

import botocore.loaders
import botocore.session
import pytest

from tests.helpers.aws import AWSProxy, Moto


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    with Moto.running() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _quick_clients() -> Iterator[None]:
    """Let all sessions of the SDK share its descriptions of AWS, which it reads again for each otherwise."""
    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", lambda *_arguments: loader)
        yield


@pytest.fixture
def proxy(moto: Moto) -> Iterator[AWSProxy]:
    with AWSProxy(moto).running() as running:
        yield running
        assert running.is_over(), "the server did not make all requests that were planned for"
