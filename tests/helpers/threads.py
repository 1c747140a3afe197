"""Servers on threads of the tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

__all__ = ["serving"]


@contextmanager
def serving(server: ThreadingHTTPServer, release: threading.Event) -> Iterator[None]:
    """Serve on a thread. At the end, set `release`, for which handlers may wait, and close the server."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        release.set()
        server.shutdown()
        server.server_close()
        thread.join()
