"""The rules of access: who asks, which route, and whether they may. Internal."""
