"""Audit sinks and hooks of plugins, behind the boundary. Private."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from kes_core.boundary.calls import BLOCKING, TELL_AGAIN, text_of
from kes_core.counters import LOST_RECORDS
from kes_core.faults import kind_of, log_fault

if TYPE_CHECKING:
    from kes_core.hookspecs import AuditSink, ServerInfo
    from kes_core.plugins import Plugins

__all__ = ["GuardedSink", "notify", "open_plugin_sinks"]

logger = logging.getLogger("kes.plugins")

HOOK_TIMEOUT: Final = 5.0
"""Seconds that a plugin has to handle the start or the stop of the server."""


class GuardedSink:
    """A plugin's audit sink. Its exceptions are logged, at most once a minute."""

    def __init__(self, sink: AuditSink, what: str) -> None:
        self._sink = sink
        self._what = what
        self._lost = 0
        self._told_lost = self._told_blocking = -math.inf

    def audit(self, event: Mapping[str, Any]) -> None:
        """Pass a record to the sink."""
        started = time.monotonic()
        try:
            self._sink.audit(event)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too
            self._lost += 1
            LOST_RECORDS.add("plugin")
            if started - self._told_lost >= TELL_AGAIN:
                self._log_lost(error)
                self._told_lost, self._lost = started, 0
        seconds = time.monotonic() - started
        if seconds > BLOCKING and started - self._told_blocking >= TELL_AGAIN:
            self._told_blocking = started
            logger.warning("%s kept all requests waiting for %.1f s", self._what, seconds)

    def _log_lost(self, error: BaseException) -> None:
        text = text_of(error)
        if text is None:
            log_fault(logger, "%s did not take %d records", self._what, self._lost, error=error, foreign=True)
        else:
            logger.error("%s did not take %d records: %s", self._what, self._lost, text)


def open_plugin_sinks(plugins: Plugins) -> list[GuardedSink]:
    """Return the audit sinks of all plugins, each behind the boundary. Log each plugin whose sinks can't be used."""
    sinks: list[GuardedSink] = []
    for what, call in _implementations(plugins, "kes_audit_sinks"):
        try:
            found = call({})
            usable = isinstance(found, list | tuple) and all(_is_sink(sink) for sink in found)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too
            log_fault(logger, "%s failed in kes_audit_sinks", what, error=error, foreign=True)
            continue
        if usable:
            sinks += [GuardedSink(sink, f"the audit sink {kind_of(sink)} of {what}") for sink in found]
        else:
            logger.error("%s has to return a list of objects with a method 'audit' from kes_audit_sinks", what)
    return sinks


def _is_sink(sink: object) -> bool:
    method = getattr(sink, "audit", None)
    return callable(method) and not inspect.iscoroutinefunction(method)


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
