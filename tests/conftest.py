"""Fixtures of all tests."""

from __future__ import annotations

import signal

import pytest

from tests.helpers.effort import load_profile
from tests.helpers.fixtures import run_server, server

__all__ = ["run_server", "server"]

# Shells make background jobs ignore Ctrl-C, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Make the security tests work harder with `-m nightly`."""
    load_profile(nightly=config.option.markexpr == "nightly")
