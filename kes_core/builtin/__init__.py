"""The plugins that the core brings: the in-memory key store and the policies of the configuration. Internal."""
