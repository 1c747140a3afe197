"""The server. Internal: the command line needs only `kes_core.server.main.run`."""
