"""Commands of plugins (`kes NAME`) with one fault each, as the source of a module with a `command`."""

from __future__ import annotations

from tests.plugins.faulty.bases import SECRET

SOURCES = {
    "exits": f"raise SystemExit('{SECRET}')",
    "raises": f"raise ValueError('{SECRET}')",
    "lacks": "",
    "prints": "command = print",
    "fails": f"import click\n@click.command()\ndef command():\n    raise KeyError('{SECRET}')",
    "twice": "import click\ncommand = click.Command('twice')",
}
"""By the command's name. Two packages offer `twice`."""
