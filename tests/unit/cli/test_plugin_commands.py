"""Commands that plugins add to `kes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.command import kes

COMMAND = """
import click

@click.group()
def command():
    '''Look after the shelf.'''

@command.command()
@click.argument("name")
def dust(name):
    click.echo(f"dusted {name}")
"""


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    """Packages with commands: one that is fine, one that is not, and one with the name of a command of the core."""
    folder = tmp_path / "site"
    folder.mkdir()
    sources = {
        "shelf": COMMAND,
        "broken": "raise SystemExit('secret')",
        "server": COMMAND,
    }
    for name, source in sources.items():
        (folder / f"the_{name}.py").write_text(source)
        info = folder / f"kes_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kes-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[kes.commands]\n{name} = the_{name}:command\n")
    return {"PYTHONPATH": str(folder)}


def test_command_of_a_plugin(tmp_path: Path, site: dict[str, str]) -> None:
    assert kes("shelf", "dust", "it", cwd=tmp_path, environment=site).stdout == "dusted it\n"
    assert "Look after the shelf." in kes("shelf", "--help", cwd=tmp_path, environment=site).stdout


def test_help_names_commands_and_imports_none(tmp_path: Path, site: dict[str, str]) -> None:
    shown = kes("--help", cwd=tmp_path, environment=site).stdout
    assert "Of plugins:" in shown
    assert "From kes-broken." in shown
    assert "From kes-server." not in shown


def test_own_commands_stay(tmp_path: Path, site: dict[str, str]) -> None:
    assert "Start a server" in kes("server", "--help", cwd=tmp_path, environment=site).stdout
