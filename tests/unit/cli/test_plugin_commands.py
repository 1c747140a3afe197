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
    """Packages with commands: one that is fine, some that are not, and one with the name of a command of the core."""
    folder = tmp_path / "site"
    folder.mkdir()
    sources = {
        "shelf": COMMAND,
        "broken": "raise SystemExit('secret')",
        "odd": "command = print",
        "server": COMMAND,
        "twice": COMMAND,
    }
    for name, source in sources.items():
        (folder / f"the_{name}.py").write_text(source)
        packages = [f"kes_{name}", f"kes_{name}_too"] if name == "twice" else [f"kes_{name}"]
        for package in packages:
            info = folder / f"{package}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n")
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "Error: the command 'broken' of kes-broken can't be imported: SystemExit\n"),
        ("odd", "Error: the command 'odd' of kes-odd is not a command of click\n"),
        (
            "twice",
            "Error: several packages offer the command 'twice': kes-twice, kes-twice-too; uninstall one of them\n",
        ),
    ],
)
def test_faulty_command_is_one_line(name: str, message: str, tmp_path: Path, site: dict[str, str]) -> None:
    assert kes(name, cwd=tmp_path, environment=site, code=1).stderr == message
