"""The supervisor of several processes that serve on the same sockets. It serves nothing itself. Internal.

It starts workers and replaces dead ones, gives a new configuration to all of them or to none, and adds up their
numbers. It also forwards messages between them: created or deleted keys, and events for the readers of the logs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final

from kes_core.audit.stdout import UNAUDITED
from kes_core.counters import merge
from kes_core.server import log
from kes_core.server.process import ConfigRejectedError, WorkerError
from kes_core.server.wire import spread
from kes_core.server.workers import signs
from kes_core.server.workers.channel import PeerError
from kes_core.server.workers.handle import FRONTENDS_TIMEOUT, WorkerHandle

if TYPE_CHECKING:
    from kes_core.config import LoadedConfig
    from kes_core.server.wire.sockets import Sockets

__all__ = ["Supervisor"]

logger = logging.getLogger("kes.server")

_SNAPSHOT_INTERVAL: Final = 1.0
"""Seconds between two reads of the workers' numbers. If a worker dies, its counts since the last read are lost."""
_PREPARE_TIMEOUT: Final = 60.0
"""Seconds that a worker of a running server has to connect to the key store and the policy engines."""
_MAX_PAUSE: Final = 30.0
"""The longest pause, in seconds, before the replacement of a worker that keeps dying."""
_LASTING: Final = 60.0
"""Seconds after which a worker's death no longer lengthens that pause."""
GAUGES: Final = frozenset(
    {"active", "workers", "threads", "heap", "blocks", "stack"}
    | {"expiring", "credentials", "deletions", "keys", "frontends"}
)
"""Numbers that disappear with their process. All others only grow."""


class Supervisor:
    """Starts, replaces, reloads and stops the workers."""

    def __init__(self, loaded: LoadedConfig, *, mlock: bool) -> None:
        """Set up, without starting anything yet. The arguments are those of `kes_core.server.main.run`."""
        self.loaded = loaded
        self.mlock = mlock
        self.sockets: Sockets
        self.output_lock = os.memfd_create("kes-output-lock")
        self._count = loaded.config.workers
        self.connections = spread.create(self._count)
        self._workers: list[WorkerHandle] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._started = time.monotonic()
        self._restarts = 0
        self._past: list[dict[str, Any]] = []
        """What dead workers had counted."""
        self._reloading = asyncio.Lock()
        self._stopping = False

    async def start(self, sockets: Sockets) -> None:
        """Start the workers on `sockets`.

        Raises:
            WorkerError: A worker can't start.
        """
        self.sockets = sockets
        workers = [WorkerHandle(number, self) for number in range(1, self._count + 1)]
        try:
            results = await asyncio.gather(*(self._start(worker) for worker in workers), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.gather(*(worker.end() for worker in workers if worker.has_begun))
            raise
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            await asyncio.gather(*(worker.end() for worker in workers if worker.serves))
            raise failures[0]
        self._workers = workers
        for name in ("error", "audit"):  # clients may read logs since before the last worker started
            self._tell_wanted(name)
        log.publish(_EventHandler(self, asyncio.get_running_loop()))
        self._tasks = [asyncio.create_task(self._keep_running(index)) for index in range(len(workers))]
        self._tasks.append(asyncio.create_task(self._collect()))

    async def _start(self, worker: WorkerHandle) -> None:
        await worker.start(self)
        await worker.serve()

    async def reload(self, loaded: LoadedConfig) -> None:
        """Make all workers serve with `loaded`, or none.

        Raises:
            ConfigRejectedError: It can't be used. Nothing has changed.
        """
        async with self._reloading:
            workers = [worker for worker in self._workers if worker.serves]
            results = await asyncio.gather(
                *(worker.order("prepare", within=_PREPARE_TIMEOUT, values=loaded.values) for worker in workers),
                return_exceptions=True,
            )
            # A worker that died meanwhile is replaced, and the new one starts with the then current configuration.
            failures = [result for result in results if isinstance(result, PeerError)]
            if not failures:
                failures = await self._switch_frontends(workers)
            done = "discard" if failures else "apply"
            await asyncio.gather(*(worker.order(done) for worker in workers), return_exceptions=True)
            if failures:
                raise ConfigRejectedError(str(failures[0]))
            self.loaded = loaded

    async def _switch_frontends(self, workers: list[WorkerHandle]) -> list[PeerError]:
        """Let the workers run the front ends of the prepared configuration, or go back if that fails in one of them."""
        for back in (False, True):
            orders = (worker.order("frontends", within=FRONTENDS_TIMEOUT, back=back) for worker in workers)
            results = await asyncio.gather(*orders, return_exceptions=True)
            if not back:
                failures = [result for result in results if isinstance(result, PeerError)]
                if not failures:
                    break
        return failures

    async def stop(self) -> None:
        """Let all workers finish their requests in progress, and end them."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.end() for worker in self._workers))
        os.close(self.output_lock)
        os.close(self.connections)
        if any(worker.process.returncode == UNAUDITED for worker in self._workers):
            raise WorkerError("the audit log on standard output can't be written")

    async def _keep_running(self, index: int) -> None:
        """Replace the worker at `index` whenever it dies."""
        loop = asyncio.get_running_loop()
        pause, started = 0.0, loop.time()
        while True:
            worker = self._workers[index]
            await worker.wait()
            self._restarts += 1
            if worker.numbers:
                self._past = [merge([*self._past, _lasting(worker.numbers)])]
            for name in list(worker.reads):
                self.on_readers(worker, name, False)
            logger.error("worker %d has died, %s, and is replaced", worker.number, worker.how_it_ended)
            pause = 0.0 if loop.time() - started > _LASTING else min(_MAX_PAUSE, pause * 2 or 0.1)
            started = await self._replace(index, pause)

    async def _replace(self, index: int, pause: float) -> float:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            started = loop.time()
            worker = WorkerHandle(index + 1, self)
            try:
                # Do not block reloads meanwhile: a worker may take long to connect, or hang.
                await worker.start(self, within=_PREPARE_TIMEOUT)
                async with self._reloading:
                    if worker.loaded is not self.loaded:  # it missed a reload: do not serve
                        await worker.kill()
                        pause = 0.0
                        continue
                    await worker.serve(replaces=True)
                    self._workers[index] = worker
            except asyncio.CancelledError:
                if worker.has_begun:
                    await worker.kill()
                raise
            except WorkerError as error:
                logger.error("worker %d can't be replaced: %s", worker.number, error)
                pause = min(_MAX_PAUSE, max(1.0, pause * 2))
                continue
            for name in ("error", "audit"):
                self._tell_wanted(name)
            return started

    # Requests of the workers

    async def snapshot(self) -> dict[str, Any]:
        """Return the numbers of all workers."""
        workers = [worker for worker in self._workers if worker.serves]
        answers = await asyncio.gather(*(worker.snapshot() for worker in workers))
        for worker, answer in zip(workers, answers, strict=True):
            worker.numbers = answer or worker.numbers
        # A worker that has died meanwhile is already in `_past`.
        found = [worker.numbers for worker in workers if worker.numbers and worker.serves]
        total: dict[str, Any] = merge([*found, *self._past])
        return total | {"worker_restarts": self._restarts, "started": self._started}

    async def forget(self, asking: WorkerHandle, name: str) -> None:
        """Remove a key from the memory of all workers except the one that asks."""
        others = [worker for worker in self._workers if worker is not asking and worker.serves]
        await asyncio.gather(*(worker.order("forget", name=name) for worker in others), return_exceptions=True)

    def on_readers(self, worker: WorkerHandle, log: str, there_are: bool) -> None:
        """Record whether clients of a worker read a log."""
        if there_are:
            worker.reads.add(log)
        else:
            worker.reads.discard(log)
        self._tell_wanted(log)

    def pass_on(self, origin: WorkerHandle | None, log: str, line: str) -> None:
        """Send an event to the workers whose clients read the log."""
        for worker in self._workers:
            if (
                worker is not origin
                and log in worker.reads
                and not worker.channel.tell("event", urgent=False, log=log, line=line)
            ):
                worker.channel.tell("cut", log=log)

    def cut(self, log: str) -> None:
        """End all streams of a log, because some of its events were lost."""
        for worker in self._workers:
            worker.channel.tell("cut", log=log)

    @property
    def has_error_readers(self) -> bool:
        """Whether any client reads the error log."""
        return any("error" in worker.reads for worker in self._workers)

    def _tell_wanted(self, log: str) -> None:
        for worker in self._workers:
            elsewhere = any(log in other.reads for other in self._workers if other is not worker)
            worker.channel.tell("wanted", log=log, elsewhere=elsewhere)

    async def _collect(self) -> None:
        """Save the workers' counts regularly, in case a worker dies. Kill those that give no sign of life."""
        while True:
            await asyncio.sleep(_SNAPSHOT_INTERVAL)
            await self.snapshot()
            for worker in self._workers:
                if worker.serves and worker.signs.silence() > signs.SILENCE:
                    worker.kill_hanging()


def _lasting(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return a worker's counts, without the numbers that disappear with it."""
    empty: dict[type, Any] = {int: 0, float: 0.0, dict: {}}
    lasting = {name: empty[type(value)] if name in GAUGES else value for name, value in numbers.items()}
    values = {key: value for key, value in numbers["plugins"]["values"].items() if not key.startswith("gauge ")}
    return lasting | {"plugins": {**numbers["plugins"], "values": values}}


class _EventHandler(logging.Handler):
    """Sends the supervisor's own log records to the clients that read the error log."""

    def __init__(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._supervisor, self._loop = supervisor, loop

    def emit(self, record: logging.LogRecord) -> None:
        if self._supervisor.has_error_readers and not self._loop.is_closed():
            line = json.dumps({"message": self.format(record)}, separators=(",", ":"))
            self._loop.call_soon_threadsafe(self._supervisor.pass_on, None, "error", line)
