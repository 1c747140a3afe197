"""Hypercorn's settings."""

from __future__ import annotations

from hypercorn.config import Config

__all__ = ["hypercorn_config"]


def hypercorn_config(max_streams: int) -> Config:
    """Return the settings, with the limit of requests at once on a connection (HTTP/2)."""
    config = Config()
    config.include_server_header = False
    config.include_date_header = False  # our responses add it, formatted once a second
    # At this limit Hypercorn closes an HTTP/2 connection, and running requests of the client fail.
    config.keep_alive_max_requests = 2**62
    config.h2_max_concurrent_streams = max_streams
    config.h2_max_header_list_size = 32 * 1024
    config.h11_max_incomplete_size = 32 * 1024
    return config
