"""The audit log and the sinks that it writes to. Internal."""
