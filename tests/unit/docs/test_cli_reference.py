"""The reference of the command line is generated from the program, and up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click

from kes_core.cli.main import cli

ROOT = Path(__file__).parents[3]


def test_reference_is_up_to_date() -> None:
    command = [sys.executable, "scripts/cli_reference.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_is_in_it_and_explained() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    context = click.Context(cli, info_name="kes")
    for name in cli.list_commands(context):
        assert re.search(rf"^## `kes {name}`$", text, re.MULTILINE), name
    assert "### `kes key dek`" in text
    assert not re.search(r"^\| `[^|]*` \| +\|$", text, re.MULTILINE), "an option is not explained"
