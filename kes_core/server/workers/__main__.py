"""`python -m kes_core.server.workers` is a worker; the supervisor starts it."""

from kes_core.server import startup

startup.begin()

from kes_core.server.workers.worker import main  # noqa: E402 # the start begins before the imports

main()
