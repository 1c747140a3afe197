"""The `kes` command. Internal. Each group of commands is a module, which is imported when it is called."""

from kes_core.cli.main import main

__all__ = ["main"]
