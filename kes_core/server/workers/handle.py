"""A worker process, as its supervisor sees it. Internal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from kes_core.server.process import GRACE, WorkerError
from kes_core.server.wire import spread
from kes_core.server.workers import signs
from kes_core.server.workers.channel import Channel, ChannelClosedError, PeerError

if TYPE_CHECKING:
    from kes_core.server.workers.supervisor import Supervisor

__all__ = ["WorkerHandle"]

logger = logging.getLogger("kes.server")

_ANSWER_TIMEOUT: Final = 2.0
"""Seconds that a worker has to send its numbers."""
_OBEY_TIMEOUT: Final = 5.0
"""Seconds that a worker has to carry out a command before it is killed and replaced."""
FRONTENDS_TIMEOUT: Final = 150.0
"""Seconds that a worker has to start its front ends. A plugin may take 60 s to start and 5 s to stop, and if it fails,
the old front end may take as long to start again."""
KILL_AFTER: Final = GRACE + 5


class WorkerHandle:
    """A worker process, and the connection to it."""

    def __init__(self, number: int, supervisor: Supervisor) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process
        self.numbers: dict[str, Any] = {}
        """What it had counted when it was last asked."""
        self.reads: set[str] = set()
        """The logs that its clients read."""
        self.signs = signs.Listener(supervisor.output_lock, number)
        """Shows for how long it has given no sign of life."""
        self._connections = supervisor.connections
        self.serves = False
        self.loaded = supervisor.loaded
        """The configuration that it starts with."""
        self.channel = Channel(
            asked={
                "snapshot": supervisor.snapshot,
                "forget": lambda name: supervisor.forget(self, name),
            },
            handlers={
                "readers": lambda log, there_are: supervisor.on_readers(self, log, there_are),
                "event": lambda log, line: supervisor.pass_on(self, log, line),
                "cut": supervisor.cut,
            },
        )
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, supervisor: Supervisor, *, within: float | None = None) -> None:
        """Start the process and wait until it is connected to the key store. It does not serve before `serve`.

        Args:
            supervisor: Has the sockets and the configuration.
            within: Seconds that the worker has to start before it is killed.

        Raises:
            WorkerError: The worker can't start.
        """
        ours, theirs = socket.socketpair()
        sockets = supervisor.sockets
        api, probes = ([sock.fileno() for sock in found] for found in (sockets.api, sockets.probes))
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # import nothing from the current directory
                "-m",
                "kes_core.server.workers",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), supervisor.output_lock, supervisor.connections, *api, *probes],
                env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
            )
        await self.channel.open(ours)
        receiving = asyncio.create_task(self.channel.run())
        self._tasks.add(receiving)
        self.loaded = supervisor.loaded
        try:
            async with asyncio.timeout(within):
                await self.channel.ask(
                    "start",
                    number=self.number,
                    filename=self.loaded.filename,
                    values=self.loaded.values,
                    mlock=supervisor.mlock,
                    sockets=api,
                    probes=probes,
                    lock=supervisor.output_lock,
                    connections=supervisor.connections,
                )
        except PeerError as error:
            await self.end()
            raise WorkerError(str(error)) from None
        except TimeoutError:
            await self.kill()
            raise WorkerError(f"worker {self.number} did not start within {within:g} s and is killed") from None
        except ChannelClosedError:
            await self.end()
            raise WorkerError(f"worker {self.number} ended while it started, {self.how_it_ended}") from None

    async def serve(self, *, replaces: bool = False) -> None:
        """Let the worker serve, now that it is connected.

        Args:
            replaces: Whether it replaces a worker that died. Then it serves even if its front ends can't start.

        Raises:
            WorkerError: The worker can't serve.
        """
        try:
            await self.order("serve", within=_OBEY_TIMEOUT if replaces else FRONTENDS_TIMEOUT, replaces=replaces)
        except (ChannelClosedError, PeerError) as error:
            await self.kill()
            raise WorkerError(f"worker {self.number} can't serve: {error}") from None
        self.serves = True

    async def kill(self) -> None:
        """Kill the process, which may no longer respond, and wait until it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.end()

    def kill_hanging(self) -> None:
        """Kill the process, which does not respond. The supervisor replaces it."""
        logger.error("worker %d does not answer and is killed", self.number)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    @property
    def has_begun(self) -> bool:
        """Whether the process was started."""
        return hasattr(self, "process")

    @property
    def how_it_ended(self) -> str:
        """The exit code or the signal, for a message."""
        code = self.process.returncode
        return f"killed by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"

    async def wait(self) -> None:
        """Wait until the process has ended. The others leave it no connections any more."""
        await self.process.wait()
        self.serves = False
        spread.clear(self._connections, self.number)

    async def end(self) -> None:
        """Let the worker finish its requests in progress, and wait until it has ended."""
        self.serves = False
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(KILL_AFTER):
                await self.wait()
        except TimeoutError:
            logger.error("worker %d does not stop and is killed", self.number)
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.wait()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def snapshot(self) -> dict[str, Any] | None:
        """Return the worker's counts; `None` if it does not answer in time."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                found: dict[str, Any] = await self.channel.ask("snapshot")
        except (ChannelClosedError, PeerError, TimeoutError):
            return None
        return found

    async def order(self, what: str, *, within: float = _OBEY_TIMEOUT, **arguments: Any) -> None:
        """Send a command; kill and replace the worker if it does not answer within `within` seconds.

        Raises:
            ChannelClosedError: The worker has ended, or was killed.
            PeerError: It can't carry out the command.
        """
        try:
            async with asyncio.timeout(within):
                await self.channel.ask(what, **arguments)
        except TimeoutError:
            self.kill_hanging()
            raise ChannelClosedError("the worker does not answer") from None
