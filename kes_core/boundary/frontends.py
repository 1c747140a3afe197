"""Front ends behind the boundary. Private."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import types
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from kes_core.boundary.blocking import PLUGIN, calls_plugin
from kes_core.boundary.calls import (
    AWAITABLE,
    CLOSE_TIMEOUT,
    CONNECT_TIMEOUT,
    BlockingWatch,
    TooSlowError,
    abandon,
    connect_plugin,
    is_ours,
    origin_of_frontend,
    text_of,
    translated,
    within,
)
from kes_core.boundary.steps import watched
from kes_core.frontends import Frontend, FrontendContext, FrontendError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from kes_core.errors import BackendError
    from kes_core.frontends import FrontendBackend, FrontendKeys
    from kes_core.hookspecs import PluginContext

__all__ = ["GuardedFrontend"]

logger = logging.getLogger("kes.plugins")

READY_TIMEOUT: Final = 5.0
"""Seconds that a front end has to say whether it can serve."""
_LEAST: Final = 0.1
"""Seconds that `start` has even if `connect` took all the time."""


class GuardedFrontend:
    """A plugin's front end, from its connection to its end.

    A failure of a task that it started with `spawn` makes it fail as a whole: it serves nobody any more.
    """

    def __init__(self, kind: FrontendBackend, config: BaseModel, context: PluginContext, keys: FrontendKeys) -> None:
        """Set up. Nothing is called yet.

        Args:
            kind: The kind of the front end.
            config: Its section of the configuration.
            context: What it gets to know of this process.
            keys: Its keys.
        """
        self.problem = "it has not started"
        """Why it can't serve; empty if it can."""
        self.failed = asyncio.Event()
        """Set when it fails after its start, and will not serve any more."""
        self._kind = kind
        self._config = config
        self._origin = origin_of_frontend(kind)
        self._frontend: Frontend | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._watch = BlockingWatch(self._origin)
        self._metrics = context.metrics
        self._context = FrontendContext(
            directory=context.directory,
            logger=context.logger,
            worker=context.worker,
            metrics=context.metrics,
            keys=keys,
            spawn=self._spawn,
        )

    async def start(self) -> None:
        """Connect and start it, within the time that a plugin has to connect. If that fails, stop it.

        Raises:
            FrontendError: It can't start; the message says why.
        """
        ends = time.monotonic() + CONNECT_TIMEOUT
        try:
            # mypy refuses an abstract class here; it only serves for isinstance().
            kind: type[Frontend] = Frontend  # type: ignore[type-abstract]
            self._frontend = await connect_plugin(self._origin, self._kind.connect, self._config, self._context, kind)
            failure = await self._call("start", self._frontend.start, CONNECT_TIMEOUT, ends=ends)
            if failure is None and self.failed.is_set():
                failure = FrontendError(self.problem)
        except BaseException:
            await self.stop()
            raise
        if failure is not None:
            await self.stop()
            raise failure
        self.problem = ""

    async def check(self) -> None:
        """Ask it whether it can serve; set `problem`."""
        if self._frontend is None or self.failed.is_set():
            return
        failure = await self._call("ready", self._frontend.ready, READY_TIMEOUT)
        if not self.failed.is_set():
            self.problem = "" if failure is None else str(failure)

    async def stop(self) -> None:
        """Stop it and what it has spawned. Log a failure, and go on."""
        self._is_stopping = True
        if not self.failed.is_set():
            self.problem = "it has stopped"
        frontend, self._frontend = self._frontend, None
        if frontend is not None:
            failure = await self._call("stop", frontend.stop, CLOSE_TIMEOUT)
            if failure is not None:
                logger.error("the front end %r could not be stopped and is left as it is: %s", self._kind.name, failure)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _done, pending = await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            if pending:
                abandon(pending)
                left = "%d tasks of %s did not end within %g s and are abandoned"
                logger.error(left, len(pending), self._origin.what, CLOSE_TIMEOUT)

    def give_up(self, problem: str) -> None:
        """Count it as failed."""
        self.problem = problem
        self.failed.set()

    @calls_plugin
    async def _call(
        self, operation: str, function: Callable[[], Awaitable[None]], seconds: float, *, ends: float | None = None
    ) -> BackendError | None:
        """Call a method; return what to raise if it fails. `ends` is when the time is up that `connect` began."""
        started = time.perf_counter()
        left = seconds if ends is None else max(_LEAST, ends - time.monotonic())
        try:
            call: Any = function()
            if not inspect.isawaitable(call):
                return self._origin.error(self._origin.returned(operation, call, AWAITABLE))
            if isinstance(call, types.CoroutineType):
                call = watched(call, self._watch)
            await within(call, left, self._origin.what, connects=ends is not None)
        except TooSlowError:
            return FrontendError(f"{self._origin.what} has not answered {operation} within {seconds:g} s")
        except BaseException as error:
            if is_ours(error):
                raise
            return translated(self._origin, operation, error)
        finally:
            self._metrics._timer(operation).add(time.perf_counter() - started)  # noqa: SLF001 # made for the boundary
        return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._watched(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @calls_plugin
    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        PLUGIN.set(self._origin.what)
        try:
            await (watched(work, self._watch) if isinstance(work, types.CoroutineType) else work)
        except BaseException as error:
            if is_ours(error):
                raise
            if not self._is_stopping:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        text = text_of(error)
        problem = self._origin.fault("a task", error) if text is None else f"{self._origin.what} has failed: {text}"
        if not self.failed.is_set():
            logger.error("%s", problem)
            self.give_up(problem)
