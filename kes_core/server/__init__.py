"""The server. `run` is all that the command line needs of it; the rest is private to the project."""

from kes_core.server.main import ServerError, run

__all__ = ["ServerError", "run"]
