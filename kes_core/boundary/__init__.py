"""The boundary between the server and its plugins: only this package calls plugins. Internal.

A plugin may raise anything, return anything and hang. The boundary enforces what the interfaces promise:

- Each call takes a limited time. A call of a key store has the time of its request.
- Each result has the right type.
- A `BackendError`, which a plugin raises on purpose, keeps its text: one line of at most 512 characters. Of any other
  exception only the type and the name of the plugin are logged, because its text may contain a key. With
  `log.error: debug` the places of its traceback are logged too.
- No exception of a plugin ends the server, not even `SystemExit`. Only `KeyboardInterrupt` passes, and
  `asyncio.CancelledError` if the server itself cancelled the call.
"""

from __future__ import annotations

from kes_core.boundary.calls import PluginError, Surroundings
from kes_core.boundary.diagnosis import diagnose
from kes_core.boundary.engines import connect_engine
from kes_core.boundary.frontends import GuardedFrontend
from kes_core.boundary.hooks import notify
from kes_core.boundary.sinks import GuardedSink, connect_sink
from kes_core.boundary.stores import access_policy, connect_store

__all__ = [
    "GuardedFrontend",
    "GuardedSink",
    "PluginError",
    "Surroundings",
    "access_policy",
    "connect_engine",
    "connect_sink",
    "connect_store",
    "diagnose",
    "notify",
]
