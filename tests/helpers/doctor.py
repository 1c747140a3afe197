"""Configurations for the doctor, and checks of its findings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kes_core.config import Config, load
from kes_core.findings import Finding
from kes_core.plugins import load_plugins
from tests.helpers.server import write_config

ADMIN = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"
CLIENT = "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb"
PLUGINS = load_plugins()


def config(directory: Path, **overrides: Any) -> Config:
    """Return a valid configuration."""
    return load(write_config(directory, ADMIN, overrides), plugins=PLUGINS).config


def levels(findings: Iterable[Finding]) -> set[str]:
    return {str(finding.level) for finding in findings}


def finding_with(findings: Iterable[Finding], text: str) -> Finding:
    """Return the only finding whose message contains `text`."""
    found = list(findings)
    matching = [finding for finding in found if text in finding.message]
    assert len(matching) == 1, "\n".join(str(finding) for finding in found)
    return matching[0]


def assert_none_at(findings: Iterable[Finding], *bad: str) -> None:
    """Check that no finding has a level in `bad`."""
    wrong = [finding for finding in findings if finding.level in bad]
    assert not wrong, wrong


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Drop root's rights inside the block, as root may read and write everything."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)
