"""The API: the dispatcher, and a module of handlers for each resource. Internal. It does not deal with TLS."""
