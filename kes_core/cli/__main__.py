"""`python -m kes_core.cli` is `kes`."""

from kes_core.cli.main import main

main()
