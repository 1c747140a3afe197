"""Several server processes on one port, and their communication. Internal."""
