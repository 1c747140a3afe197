"""Backups of all keys in one encrypted file, for kes-core: the command `kes backup`."""
