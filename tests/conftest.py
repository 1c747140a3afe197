"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal

import pytest

from tests.helpers.effort import load_profile
from tests.helpers.fixtures import run_server, server
from tests.helpers.server import RUNTIME

__all__ = ["run_server", "server"]

# Shells make background jobs ignore Ctrl-C, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runtime", choices=["native", "hypercorn"], help="what the servers of the tests serve HTTP with")


def pytest_configure(config: pytest.Config) -> None:
    """Make the security tests work harder with `-m nightly`."""
    load_profile(nightly=config.option.markexpr == "nightly")
    if config.option.runtime:
        os.environ[RUNTIME] = config.option.runtime


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the long forms more time than other tests."""
    if config.option.markexpr == "nightly":
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))
