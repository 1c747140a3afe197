"""Front ends with one fault each."""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

from kes_core import FrontendContext, FrontendError
from tests.plugins.faulty.bases import SECRET, FaultyFrontend, forever, stubbornly

# connect and start


class FrontendConnectReturnsADictionary(FaultyFrontend):
    """`connect` returns a dictionary."""

    @classmethod
    async def connect(cls, _settings: Any, _context: FrontendContext) -> Any:
        return {}


class FrontendConnectRaises(FaultyFrontend):
    """`connect` raises an exception of another library."""

    @classmethod
    async def connect(cls, _settings: Any, _context: FrontendContext) -> Any:
        raise RuntimeError(SECRET)


class StartRaises(FaultyFrontend):
    """`start` raises an exception of another library."""

    async def start(self) -> None:
        raise OSError(98, SECRET)


class StartFails(FaultyFrontend):
    """`start` raises a proper error of several lines."""

    async def start(self) -> None:
        raise FrontendError("port 7000 is in use:\nchoose another")


class StartExits(FaultyFrontend):
    """`start` calls `sys.exit()`."""

    async def start(self) -> None:
        raise SystemExit(SECRET)


class StartIsCancelled(FaultyFrontend):
    """`start` raises `CancelledError`, although nothing cancelled it."""

    async def start(self) -> None:
        raise asyncio.CancelledError(SECRET)


class StartIsSynchronous(FaultyFrontend):
    """`start` is not an `async def` method."""

    def start(self) -> Any:
        pass


class StartHangs(FaultyFrontend):
    """`start` never returns."""

    hangs = True

    async def start(self) -> None:
        await forever()


class StartIgnoresCancellation(FaultyFrontend):
    """`start` never returns, and ignores that it is cancelled."""

    hangs = True

    async def start(self) -> None:
        await stubbornly()


class StartBlocks(FaultyFrontend):
    """`start` waits on the event loop."""

    async def start(self) -> None:
        time.sleep(0.15)  # noqa: ASYNC251 # the fault


class StartLeavesItsListener(FaultyFrontend):
    """`start` fails after it has opened its listener, and `stop` does not close it."""

    listener: ClassVar[Any] = None

    async def start(self) -> None:
        StartLeavesItsListener.listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        raise FrontendError("the certificate is missing")

    @classmethod
    def clean_up(cls) -> None:
        """Close what is left."""
        cls.listener.close()


# ready


class ReadyRaises(FaultyFrontend):
    """`ready` raises an exception of another library."""

    async def ready(self) -> None:
        raise ValueError(SECRET)


class ReadyExits(FaultyFrontend):
    """`ready` calls `sys.exit()`."""

    async def ready(self) -> None:
        raise SystemExit(SECRET)


class ReadyReturnsFalse(FaultyFrontend):
    """`ready` returns False instead of raising: the server ignores that."""

    async def ready(self) -> Any:
        return False


class ReadyHangs(FaultyFrontend):
    """`ready` never returns."""

    hangs = True

    async def ready(self) -> None:
        await forever()


class ReadyIgnoresCancellation(FaultyFrontend):
    """`ready` never returns, and ignores that it is cancelled."""

    hangs = True

    async def ready(self) -> None:
        await stubbornly()


class ReadyBlocks(FaultyFrontend):
    """`ready` waits on the event loop, after it has awaited something."""

    async def ready(self) -> None:
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 # as above


# tasks


class TaskRaises(FaultyFrontend):
    """A task raises an exception of another library."""

    has_task = True

    async def start(self) -> None:
        self.context.spawn(self.work())

    async def work(self) -> None:
        raise KeyError(SECRET)


class TaskFails(TaskRaises):
    """A task raises a proper error after the start."""

    async def work(self) -> None:
        await asyncio.sleep(0.01)
        raise FrontendError("the socket is gone")


class TaskExits(TaskRaises):
    """A task calls `sys.exit()`."""

    async def work(self) -> None:
        raise SystemExit(SECRET)


class TaskIsCancelled(TaskRaises):
    """A task raises `CancelledError`, although nothing cancelled it."""

    async def work(self) -> None:
        raise asyncio.CancelledError(SECRET)


class TaskBlocks(TaskRaises):
    """A task waits on the event loop."""

    async def work(self) -> None:
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 # as above
        raise FrontendError("that is enough")


class TaskIgnoresCancellation(TaskRaises):
    """A task goes on after the stop."""

    hangs = True
    has_task = False

    async def work(self) -> None:
        await stubbornly()


class OwnTaskRaises(FaultyFrontend):
    """A task that was not started with `spawn` raises an exception."""

    async def start(self) -> None:
        asyncio.get_running_loop().call_soon(self._begin)
        await asyncio.sleep(0.01)

    def _begin(self) -> None:
        raise ValueError(SECRET)


# stop


class StopRaises(FaultyFrontend):
    """`stop` raises an exception of another library."""

    async def stop(self) -> None:
        raise ValueError(SECRET)


class StopExits(FaultyFrontend):
    """`stop` calls `sys.exit()`."""

    async def stop(self) -> None:
        raise SystemExit(SECRET)


class StopIsSynchronous(FaultyFrontend):
    """`stop` is not an `async def` method."""

    def stop(self) -> Any:
        pass


class StopHangs(FaultyFrontend):
    """`stop` never returns."""

    hangs = True

    async def stop(self) -> None:
        await forever()


class StopIgnoresCancellation(FaultyFrontend):
    """`stop` never returns, and ignores that it is cancelled."""

    hangs = True

    async def stop(self) -> None:
        await stubbornly()
