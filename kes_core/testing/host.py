"""The server's side of a front end, for tests in this process: keys, policies and audit records, without a listener."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import parse_config
from kes_core.counters import PluginMetrics, StoreCounters
from kes_core.frontends import FrontendContext, FrontendKeys
from kes_core.keys.changes import change_condition, with_state
from kes_core.keys.stored import KeyState, KeyVersion
from kes_core.keystore import KeyStoreUnreachableError
from kes_core.plugins import load_plugins

if TYPE_CHECKING:
    from kes_core.server.api.dispatch import KESApp
    from kes_core.server.state import State

__all__ = ["FrontendHost"]

NAME: Final = "test"
"""The name of the front end in audit records."""


class _Store(MemoryKeyStore):
    """The key store in memory, which can become unreachable."""

    is_down = False

    async def status(self) -> None:
        if self.is_down:
            raise KeyStoreUnreachableError("the key store does not answer")

    async def get(self, name: str) -> bytes:
        await self.status()
        return await super().get(name)


class _Records:
    """Keeps the audit records."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []

    def audit(self, event: Mapping[str, Any]) -> None:
        self.all.append(event)

    async def close(self) -> None:
        return


class FrontendHost:
    """What a front end needs of a server: `context`, with real keys behind it. Use it in an `async with` statement.

    The keys are in memory. Policies decide, and audit records are written, with the code of the server.
    """

    def __init__(self, directory: Path, *, allow: Sequence[str] = ("/v1/key/*",), deny: Sequence[str] = ()) -> None:
        """Set up.

        Args:
            directory: The directory of the configuration file: the base of relative paths.
            allow: The paths that `identity` may use, as in a policy.
            deny: The paths that it may not use.
        """
        self.identity = hashlib.sha256(b"the front end").hexdigest()
        """An identity with a policy."""
        self.admin = hashlib.sha256(b"the admin").hexdigest()
        """The admin's identity, which may do everything."""
        self._directory = directory
        self._policy = {"allow": [*allow], "deny": [*deny], "identities": [self.identity]}
        self._store = _Store()
        self._records = _Records()
        self._app: KESApp
        self.keys: FrontendKeys
        """The keys, as front ends get them."""

    async def __aenter__(self) -> Self:
        from kes_core.server.api.dispatch import KESApp
        from kes_core.server.api.door import Door
        from kes_core.server.expiry import ExpiryWatch
        from kes_core.server.metrics import Metrics
        from kes_core.server.workers.peers import LocalPeers

        metrics = Metrics()
        self._app = KESApp(await self._state(), metrics, LocalPeers(metrics), ExpiryWatch(metrics))
        self.keys = Door(self._app, NAME, PluginMetrics())
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self._app.server_state.access.close()

    @property
    def context(self) -> FrontendContext:
        """A context for `connect`."""
        return FrontendContext(directory=self._directory, keys=self.keys)

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """The audit records of all calls, in the form of `docs/audit.md`."""
        return self._records.all

    async def create_key(self, name: str) -> None:
        """Make a key."""
        await self._app.server_state.cache.create(name, KeyVersion.generate(self.admin))

    async def rotate_key(self, name: str) -> None:
        """Add a version to a key."""
        await self._app.server_state.cache.rotate(name, self.admin)

    async def delete_key(self, name: str) -> None:
        """Delete a key."""
        await self._app.server_state.cache.delete(name)

    async def disable_key(self, name: str) -> None:
        """Disable a key: it neither encrypts nor decrypts."""
        change = with_state(KeyState.DISABLED)
        await self._app.server_state.cache.change(name, lambda store: change_condition(store, name, change, self.admin))

    async def set_policy(self, allow: Sequence[str] = (), deny: Sequence[str] = ()) -> None:
        """Reload the server with another policy for `identity`."""
        self._policy |= {"allow": [*allow], "deny": [*deny]}
        old, state = self._app.server_state, await self._state()
        self._app.use(state)
        await old.access.close()

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Make the key store unreachable while the context is active. Keys in memory are forgotten."""
        self._app.server_state.cache.forget_all()
        self._store.is_down = True
        try:
            yield
        finally:
            self._store.is_down = False

    async def _state(self) -> State:
        from kes_core.audit.log import AuditLog
        from kes_core.keys.cache import KeyCache
        from kes_core.server.state import connect

        text = json.dumps(
            {
                "admin": {"identity": self.admin},
                "tls": {"key": "/not/used", "cert": "/not/used"},
                "keystore": {"memory": {}},
                "policy": {"front-end": self._policy},
            }
        )
        plugins = load_plugins(entry_points=_own_entry_points())
        config = parse_config(text, filename=str(self._directory / "test.yml"), plugins=plugins, environ={})
        state = await connect(
            config,
            plugins,
            counters=StoreCounters(),
            on_key_change=_nobody,
            audit=AuditLog([cast("Any", self._records)]),
        )
        await state.cache.close()
        return dataclasses.replace(state, cache=KeyCache(self._store, config.cache.expiry))


async def _nobody(_name: str) -> None:
    """Tell no other process."""


def _own_entry_points() -> list[metadata.EntryPoint]:
    """Return the entry points of the core: no other plugin is needed."""
    points = metadata.entry_points(group="kes")
    return [point for point in points if point.dist is not None and point.dist.name == "kes-core"]
