"""The dispatcher without a server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.workers.peers import LocalPeers


def make_app() -> KESApp:
    state: Any = SimpleNamespace()
    metrics = Metrics()
    return KESApp(state, metrics, LocalPeers(metrics), ExpiryWatch(metrics))
