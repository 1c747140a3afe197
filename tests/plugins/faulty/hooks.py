"""Plugins with a fault in a hook of the server's start or stop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from kes_core import hookimpl
from tests.plugins.faulty.bases import SECRET


class StartedRaises:
    """`kes_server_started` raises."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_started(server: Any) -> None:
        raise ValueError(SECRET, server)


class StartedExits:
    """`kes_server_started` calls `sys.exit()`."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_started() -> None:
        raise SystemExit(SECRET)


class StartedHangs:
    """`kes_server_started` does not return."""

    kes_hookspec_version = 1
    hangs = True
    end = threading.Event()

    @staticmethod
    @hookimpl
    def kes_server_started() -> None:
        StartedHangs.end.wait(60)


class StoppingRaises:
    """`kes_server_stopping` raises."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_stopping() -> None:
        raise ValueError(SECRET)


class StartedIsAsynchronous:
    """`kes_server_started` is an `async def` function."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    async def kes_server_started() -> None:
        pass


class StartedIsAGenerator:
    """`kes_server_started` has a `yield`, so it would never run."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_started() -> Iterator[None]:
        yield


class StartedIsAWrapper:
    """`kes_server_started` wraps the hooks of other plugins."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl(wrapper=True)
    def kes_server_started() -> Any:
        return (yield)


class StartedWantsMore:
    """`kes_server_started` has an argument that the hook does not have."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_started(config: Any) -> None:
        pass


class HookIsUnknown:
    """A hook that does not exist."""

    kes_hookspec_version = 1

    @staticmethod
    @hookimpl
    def kes_server_sleeping() -> None:
        pass
