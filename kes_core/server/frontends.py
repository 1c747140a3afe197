"""The front ends of this process: start, reload and stop, and a new start after a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Final

from kes_core.boundary import GuardedFrontend, Surroundings
from kes_core.errors import BackendError
from kes_core.server.api.door import Door
from kes_core.server.process import ConfigRejectedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from kes_core.config import Config, FrontendChoice
    from kes_core.server.api.dispatch import KESApp

__all__ = ["Frontends"]

logger = logging.getLogger("kes.server")

CHECK_INTERVAL: Final = 10.0
"""Seconds between two questions whether a front end can serve."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""The shortest and the longest pause, in seconds, before a front end that has failed is started again."""
_LASTING: Final = 60.0
"""Seconds after which a failure no longer lengthens that pause."""


class _Running:
    """A front end that the configuration selects, and what runs of it."""

    def __init__(self, app: KESApp, choice: FrontendChoice) -> None:
        self._app = app
        self.choice = choice
        self.name = choice.type.name
        self.guard: GuardedFrontend
        self.task: asyncio.Task[None] | None = None
        self._door: Door
        self._renew()

    def _renew(self) -> None:
        metrics, choice = self._app.metrics, self.choice
        context = Surroundings(metrics.worker, metrics.plugins).context("frontends", choice.type, choice.directory)
        self._door = Door(self._app, self.name, context.metrics)
        self.guard = GuardedFrontend(choice.type, choice.config, context, self._door)

    async def start(self) -> None:
        """Start it, and take care of it from then on.

        Raises:
            BackendError: It can't start.
        """
        await self.guard.start()
        logger.info("the front end %r has started", self.name)
        self.watch()

    def watch(self) -> None:
        """Take care of it from now on."""
        self.task = asyncio.get_running_loop().create_task(self._take_care())

    async def end(self) -> None:
        """Stop it."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        await self.guard.stop()
        self._door.close()

    async def _take_care(self) -> None:
        """Ask it regularly whether it can serve. Start it again whenever it has failed."""
        loop = asyncio.get_running_loop()
        pause, started = FIRST_PAUSE, loop.time()
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL):
                    await self.guard.failed.wait()
            except TimeoutError:
                await self._check()
                continue
            if loop.time() - started > _LASTING:
                pause = FIRST_PAUSE
            await self.guard.stop()
            self._door.close()
            await asyncio.sleep(pause)
            pause, started = min(2 * pause, LONGEST_PAUSE), loop.time()
            await self._start_again()

    async def _check(self) -> None:
        before = self.guard.problem
        await self.guard.check()
        if self.guard.failed.is_set() or self.guard.problem == before:
            return
        if self.guard.problem:
            logger.warning("the front end %r is not ready: %s", self.name, self.guard.problem)
        else:
            logger.warning("the front end %r is ready again", self.name)

    async def _start_again(self) -> None:
        self._renew()
        try:
            await self.guard.start()
        except BackendError as error:
            logger.error("the front end %r can't be started again: %s", self.name, error)
            self.guard.give_up(str(error))
        else:
            logger.warning("the front end %r has started again", self.name)


class Frontends:
    """The front ends of this process. Belongs to one event loop."""

    def __init__(self, app: KESApp) -> None:
        self._app = app
        self._running: dict[str, _Running] = {}
        self._changing = asyncio.Lock()
        self._changer: asyncio.Task[Any] | None = None
        """The task that starts and stops front ends."""
        app.metrics.frontends = self.problems

    def problems(self) -> Mapping[str, str]:
        """Return why each front end of this process can't serve; empty for one that can."""
        return {name: running.guard.problem for name, running in self._running.items()}

    async def use(self, config: Config) -> None:
        """Run the front ends of `config`. Those whose section is the same go on, unless they have failed.

        Raises:
            ConfigRejectedError: One of them can't start. Those that ran before run again.
        """
        async with self._change():
            before = {name: running.choice for name, running in self._running.items()}
            failures = await self._change_to(self._chosen(config))
            if failures:
                for name, error in (await self._change_to(before)).items():
                    logger.error("the front end %r can't be started again: %s", name, error)
                    self._give_up(before[name], error)
                raise ConfigRejectedError("; ".join(f"frontends.{name}: {error}" for name, error in failures.items()))

    async def try_to_use(self, config: Config) -> None:
        """Run the front ends of `config`. Those that can't start are started again and again."""
        async with self._change():
            chosen = self._chosen(config)
            for name, error in (await self._change_to(chosen)).items():
                logger.error("the front end %r can't be started: %s", name, error)
                self._give_up(chosen[name], error)

    async def stop(self) -> None:
        """Stop all front ends. A change under way ends."""
        if self._changer is not None:
            self._changer.cancel()
        async with self._changing:
            await self._end(list(self._running))

    @contextlib.asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        async with self._changing:
            self._changer = asyncio.current_task()
            try:
                yield
            finally:
                self._changer = None

    def _chosen(self, config: Config) -> dict[str, FrontendChoice]:
        is_first = self._app.metrics.worker <= 1
        return {choice.type.name: choice for choice in config.frontends if is_first or choice.type.per_worker}

    async def _change_to(self, chosen: Mapping[str, FrontendChoice]) -> dict[str, BackendError]:
        """Run the front ends of `chosen`; return what went wrong, by name."""
        await self._end([name for name in self._running if name not in chosen])
        changed = [choice for name, choice in chosen.items() if not self._goes_on(name, choice)]
        results = await asyncio.gather(*(self._put(choice) for choice in changed), return_exceptions=True)
        failures: dict[str, BackendError] = {}
        for choice, result in zip(changed, results, strict=True):
            if isinstance(result, BackendError):
                failures[choice.type.name] = result
            elif result is not None:
                raise result
        return failures

    def _goes_on(self, name: str, choice: FrontendChoice) -> bool:
        running = self._running.get(name)
        return running is not None and running.choice == choice and not running.guard.failed.is_set()

    async def _put(self, choice: FrontendChoice) -> None:
        """Start a front end in the place of the one of its name."""
        old = self._running.get(choice.type.name)
        takes_over = old is not None and choice.type.takes_over and not old.guard.failed.is_set()
        if old is not None and not takes_over:
            await self._end([old.name])
        new = _Running(self._app, choice)
        await new.start()
        self._running[new.name] = new
        if old is not None and takes_over:
            await old.end()

    def _give_up(self, choice: FrontendChoice, error: BackendError) -> None:
        """Remember a front end that should run and does not; it is started again later."""
        running = self._running[choice.type.name] = _Running(self._app, choice)
        running.guard.give_up(str(error))
        running.watch()

    async def _end(self, names: Iterable[str]) -> None:
        ended = [running for name in names if (running := self._running.pop(name, None)) is not None]
        await asyncio.gather(*(running.end() for running in ended))
