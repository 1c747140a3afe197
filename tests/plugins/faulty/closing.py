"""Key stores with a fault in `close`."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.plugins.faulty.bases import SECRET, FaultyStore, forever, stubbornly


class CloseHangs(FaultyStore):
    """`close` never returns."""

    hangs = True

    async def close(self) -> None:
        await forever()


class CloseIgnoresCancellation(FaultyStore):
    """`close` never returns, and ignores that it is cancelled."""

    hangs = True

    async def close(self) -> None:
        await stubbornly()


class CloseRaises(FaultyStore):
    """`close` raises an exception of another library."""

    async def close(self) -> None:
        raise ValueError(SECRET)


class CloseExits(FaultyStore):
    """`close` calls `sys.exit()`."""

    async def close(self) -> None:
        raise SystemExit(SECRET)


class CloseIsSynchronous(FaultyStore):
    """`close` is not an `async def` method."""

    def close(self) -> Any:
        self._values.clear()


class CloseIsAProperty(FaultyStore):
    """`close` is a property that raises."""

    @property
    def close(self) -> Any:
        raise RuntimeError(SECRET)


class CloseForgetsATask(FaultyStore):
    """`close` leaves a task behind."""

    async def close(self) -> None:
        CloseForgetsATask.task = asyncio.create_task(forever())

    task: ClassVar[Any] = None
