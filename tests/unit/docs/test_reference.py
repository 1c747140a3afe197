"""The reference for authors of plugins is generated from the source, and up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kes_core
import kes_core.testing

ROOT = Path(__file__).parents[3]


def test_reference_is_up_to_date() -> None:
    command = [sys.executable, "scripts/reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_that_plugins_import_is_in_it() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    of_sections = {"Section", "Duration", "LogLevel", "Secret", "Switch"}
    for name in {*kes_core.__all__, *kes_core.testing.__all__, *of_sections} - {"HOOKSPEC_VERSION", "hookimpl"}:
        assert f"### {name}" in text or f"### `{name}" in text, name


def test_signatures_are_whole() -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    for signature in (
        "KeyStoreUnreachableError(message: str = '', *, reason: KeyStoreReason | None = None)",
        "async KeyStore.list(self, prefix: str = '', *, start: str = '', limit: int = 1024) -> Page",
        "BlockingCalls(name: str, *, threads: int = 8)",
        "async KeyStoreContract.make_store(self) -> KeyStore",
    ):
        assert f"`{signature}`" in text
