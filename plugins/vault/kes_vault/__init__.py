"""The Vault key store of kes-core is not there yet. This package holds its place and provides nothing.

A configuration that names `keystore.vault` is refused with the list of the key stores that are installed.
"""

kes_hookspec_version = 1
