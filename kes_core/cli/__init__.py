"""The `kes` command. Internal. Each group of commands is a module, imported only when called."""

from kes_core.cli.main import main

__all__ = ["main"]
