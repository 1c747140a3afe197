"""Hooks of plugins, behind the boundary. Private."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kes_core.faults import log_fault

if TYPE_CHECKING:
    from kes_core.hookspecs import ServerInfo
    from kes_core.plugins import Plugins

__all__ = ["notify"]

logger = logging.getLogger("kes.plugins")

HOOK_TIMEOUT: Final = 5.0
"""Seconds that a plugin has to handle the start or the stop of the server."""


async def notify(plugins: Plugins, hook: str, server: ServerInfo) -> None:
    """Notify all plugins that the server started or stops: each on its own thread, and for a limited time."""
    for what, call in _implementations(plugins, hook):
        outcome = _on_thread(lambda call=call: call({"server": server}), f"kes-{hook}")  # type: ignore[misc] # mypy does not infer the default of a lambda
        done, _waiting = await asyncio.wait({outcome}, timeout=HOOK_TIMEOUT)
        if not done:
            logger.error("%s did not return from %s within %g s", what, hook, HOOK_TIMEOUT)
        elif (error := outcome.result()) is not None:
            log_fault(logger, "%s failed in %s", what, hook, error=error, foreign=True)


def _on_thread(call: Callable[[], object], name: str) -> asyncio.Future[BaseException | None]:
    """Run `call` on a daemon thread; return a future of its exception, or of None."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[BaseException | None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result(error)

    def run() -> None:
        failure: BaseException | None = None
        try:
            call()
        except BaseException as error:  # any exception belongs to the plugin
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(end, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def _implementations(plugins: Plugins, hook: str) -> list[tuple[str, Callable[[Mapping[str, Any]], Any]]]:
    """Return the implementations of a hook: the plugin's name, and a function that takes the hook's arguments."""

    def caller(implementation: Any) -> Callable[[Mapping[str, Any]], Any]:
        return lambda arguments: implementation.function(*(arguments[name] for name in implementation.argnames))

    found = reversed(getattr(plugins.hook, hook).get_hookimpls())  # pluggy lists them in the reverse order of calls
    return [(_name(each.plugin_name), caller(each)) for each in found if not (each.hookwrapper or each.wrapper)]


def _name(registered: str) -> str:
    distribution, _, name = registered.partition(":")
    return f"the plugin {name!r} of {distribution}"
