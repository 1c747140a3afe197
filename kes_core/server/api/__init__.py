"""The API: dispatching requests, and the handlers, one module for each resource. Internal. It knows no TLS."""
