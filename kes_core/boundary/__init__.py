"""The boundary between the server and its plugins: only this package calls what belongs to a plugin. Internal.

A plugin may raise anything, return anything and hang. What passes this boundary is what the interfaces promise:

- A call takes a limited time. A key store's own calls have the time of the request they belong to.
- What comes back is of the right kind.
- What a plugin raises on purpose, `KeyStoreError`, keeps its text: one line of at most 512 characters. Of anything else
  only the type and the name of the plugin are logged, for its text may hold a key. Where it came from is logged with
  `log.error: debug`.
- No exception of a plugin ends the server, `SystemExit` included. Only `KeyboardInterrupt` passes, and
  `asyncio.CancelledError` where the server itself cancelled the call.
"""

from __future__ import annotations

from kes_core.boundary.calls import PluginError
from kes_core.boundary.engines import connect_engine
from kes_core.boundary.hooks import GuardedSink, notify, open_plugin_sinks
from kes_core.boundary.stores import access_policy, connect_store, diagnose

__all__ = [
    "GuardedSink",
    "PluginError",
    "access_policy",
    "connect_engine",
    "connect_store",
    "diagnose",
    "notify",
    "open_plugin_sinks",
]
