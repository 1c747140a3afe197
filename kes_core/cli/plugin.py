"""`kes plugin new`: write the package of a new plugin, complete except for the code of its author."""

from __future__ import annotations

import keyword
import re
import string
from importlib import resources
from pathlib import Path
from typing import Final

import click

from kes_core.cli._command import Group
from kes_core.cli.main import CLIError

__all__ = ["command"]

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", re.ASCII)
_COMMON: Final = {
    "common/pyproject.toml": "pyproject.toml",
    "common/gitignore": ".gitignore",
    "common/ci.yml": ".github/workflows/ci.yml",
}
_FILES: Final = {
    "keystore": {
        "keystore/README.md": "README.md",
        "keystore/plugin.py": "{package}/__init__.py",
        "keystore/store.py": "{package}/store.py",
        "keystore/test_contract.py": "tests/test_contract.py",
        "keystore/test_plugin.py": "tests/test_plugin.py",
    },
    "policy": {
        "policy/README.md": "README.md",
        "policy/plugin.py": "{package}/__init__.py",
        "policy/engine.py": "{package}/engine.py",
        "policy/test_contract.py": "tests/test_contract.py",
        "policy/test_plugin.py": "tests/test_plugin.py",
    },
    "sink": {
        "sink/README.md": "README.md",
        "sink/plugin.py": "{package}/__init__.py",
        "sink/sink.py": "{package}/sink.py",
        "sink/test_contract.py": "tests/test_contract.py",
        "sink/test_plugin.py": "tests/test_plugin.py",
    },
    "frontend": {
        "frontend/README.md": "README.md",
        "frontend/plugin.py": "{package}/__init__.py",
        "frontend/frontend.py": "{package}/frontend.py",
        "frontend/test_contract.py": "tests/test_contract.py",
        "frontend/test_plugin.py": "tests/test_plugin.py",
    },
}
"""The templates of each kind, and the files that they produce."""
_KINDS: Final = {
    "keystore": ("key store", "KeyStore", "store"),
    "policy": ("policy engine", "PolicyEngine", "engine"),
    "sink": ("audit sink", "AuditSink", "sink"),
    "frontend": ("front end", "Frontend", "frontend"),
}
"""The name of each kind, the end of its class's name, and the module for the author to write."""


@click.group("plugin", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Write a plugin. `kes plugins` lists the installed ones."""


@command.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(_FILES)), required=True, help="What the plugin contributes.")
@click.option(
    "--output", metavar="DIR", type=click.Path(path_type=Path), help="Where to put it.  [default: a folder NAME]"
)
def new(name: str, kind: str, output: Path | None) -> None:
    """Write the package of a new plugin.

    NAME is the name of the distribution, as in kes-mystore. The tests of the package check the contract of the plugin.
    They fail until you write its code.
    """
    from kes_core.hookspecs import HOOKSPEC_VERSION

    short = name.removeprefix("kes-")
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(short) or keyword.iskeyword(package):
        raise CLIError(
            f"{name!r} is not a valid name for a package: expected lower-case words with dashes, as in kes-mystore"
        )
    folder = output if output is not None else Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CLIError(f"{folder} is there already and not empty: choose another folder with --output")
    what, suffix, module = _KINDS[kind]
    values = {
        "name": name,
        "short": short,
        "package": package,
        "class_name": "".join(word.capitalize() for word in short.split("-")) + suffix,
        "description": f"{'An' if kind == 'sink' else 'A'} {what} for kes-core",
        "version": str(HOOKSPEC_VERSION),
    }
    templates = resources.files("kes_core.cli") / "templates"
    for template, target in {**_COMMON, **_FILES[kind]}.items():
        path = folder / target.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            string.Template((templates / f"{template}.template").read_text("utf-8")).substitute(values), "utf-8"
        )
    (folder / package / "py.typed").touch()
    click.echo(
        f"\n  Write the {what} in {folder / package / module}.py. Next:\n\n"
        f"  cd {folder}\n  python3 -m venv .venv\n  .venv/bin/pip install --editable '.[test]'\n  .venv/bin/pytest\n"
    )
