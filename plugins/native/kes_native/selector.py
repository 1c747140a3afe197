"""Lets the event loop wait in the native part, which serves connections meanwhile without a turn of the loop."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any, Self

from kes_native import _native

__all__ = ["ServingSelector"]


class ServingSelector(selectors.BaseSelector):
    """The selector of an event loop, and the sockets of a poller with it.

    asyncio has no public way to wait for something else than its selector. So this takes the place of a private
    attribute, and reads two others. Without them, the loop watches the poller like any descriptor, which costs more.
    """

    @classmethod
    def install(cls, loop: asyncio.AbstractEventLoop, poller: _native.Poller) -> Self | None:
        """Take the place of the selector of `loop`, and serve the connections of `poller`; None if that can't be."""
        selector = getattr(loop, "_selector", None)
        has_queues = isinstance(getattr(loop, "_scheduled", None), list) and hasattr(loop, "_ready")
        if type(selector) is not selectors.EpollSelector or not has_queues:
            return None
        installed = cls(loop, poller, selector)
        poller.watch_loop(selector.fileno(), True)
        loop._selector = installed  # type: ignore[attr-defined] # noqa: SLF001 # see above
        return installed

    def __init__(self, loop: Any, poller: _native.Poller, selector: selectors.EpollSelector) -> None:
        self._loop = loop
        self._poller = poller
        self._selector = selector

    def uninstall(self) -> None:
        """Give the loop its own selector again."""
        self._poller.watch_loop(self._selector.fileno(), False)
        self._loop._selector = self._selector  # noqa: SLF001 # as in `install`

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        has_events = self._poller.wait(timeout, loop._ready, loop._scheduled)  # noqa: SLF001 # as in `install`
        return self._selector.select(0) if has_events else []

    # The rest is that of the loop's own selector

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()
