"""The audit log and where its records go. Internal."""
