"""Fixtures of all tests."""

from __future__ import annotations

import signal

import pytest

from tests.helpers.effort import load_profile
from tests.helpers.fixtures import run_server, server

__all__ = ["run_server", "server"]

# Shells have what they start in the background ignore Ctrl-C, which the programs that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Let tests of security try harder when they are asked for by their marker."""
    load_profile(nightly=config.option.markexpr == "nightly")
