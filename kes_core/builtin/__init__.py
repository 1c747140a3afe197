"""The core's own plugins: the in-memory key store, and the engine for the policies of the configuration. Internal."""
