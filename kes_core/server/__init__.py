"""The server, private to the project. `kes_core.server.main.run` is all that the command line needs of it."""
