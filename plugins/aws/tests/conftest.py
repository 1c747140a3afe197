"""One moto server for all tests of the AWS store; each test has a region of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import botocore.loaders
import botocore.session
import pytest
import trustme

from tests.helpers.aws import AWSProxy, Moto

_MANY_REQUESTS = {
    "test_every_character_of_names",
    "test_list_from_start",
    "test_list_next_name",
    "test_list_of_more_than_a_page",
    "test_list_page_by_page",
}
"""Clauses of the contract that take most of its time, because moto takes a while for each request. Those on pages test
little here: AWS has no order of names, so the store returns all of them, and the kit sorts and cuts them."""


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and item.name in _MANY_REQUESTS:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    with Moto.running() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def _sdk() -> Iterator[None]:
    """Let all sessions of the SDK share its descriptions of AWS, which it reads again for each otherwise.

    Whatever the machine knows of AWS and of proxies stays out of the tests.
    """
    loader = botocore.loaders.create_loader()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1,localhost,aws.invalid")
        patch.setattr(botocore.session, "create_loader", lambda *_arguments: loader)
        yield


@pytest.fixture
def tls_proxy(moto: Moto, tmp_path: Path) -> Iterator[tuple[AWSProxy, str]]:
    """A proxy that speaks TLS, and the file with its CA."""
    ca = trustme.CA()
    path = tmp_path / "aws-ca.crt"
    ca.cert_pem.write_to_path(path)
    with AWSProxy(moto, ca).running() as running:
        yield running, str(path)
        assert running.is_over(), "the server did not make all requests that were planned for"


@pytest.fixture
def proxy(moto: Moto) -> Iterator[AWSProxy]:
    with AWSProxy(moto).running() as running:
        yield running
        assert running.is_over(), "the server did not make all requests that were planned for"
