"""Several server processes on one port, and how they talk to each other. Internal."""
