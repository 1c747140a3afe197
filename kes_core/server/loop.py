"""The event loop of a server process. Only the server itself can stop it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final

from kes_core.faults import end_tasks, log_fault, watch_loop
from kes_core.server.watchdog import Watchdog

__all__ = ["run_loop"]

logger = logging.getLogger("kes.server")

END_TIMEOUT: Final = 5.0
"""Seconds that threads get to end after the server has stopped."""


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, on a new event loop.

    Other tasks and callbacks, such as those of plugins, can't stop the loop: their `SystemExit` is logged. When `main`
    has ended, tasks are cancelled. Tasks and threads that still run after `END_TIMEOUT` are abandoned.

    Raises:
        BaseException: `main` raised it.
    """
    loop = asyncio.new_event_loop()
    watchdog = Watchdog(loop)
    try:
        asyncio.set_event_loop(loop)
        watch_loop(loop)
        watchdog.start()
        try:
            _run(loop, loop.create_task(main))
        finally:
            _run(loop, loop.create_task(_cancel_tasks()))
            _run(loop, loop.create_task(loop.shutdown_asyncgens()))
    finally:
        watchdog.stop()
        asyncio.set_event_loop(None)
        loop.close()
    _join_threads()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    """Run the loop until `task` has ended; raise the exception of the task, if any."""
    while True:
        try:
            loop.run_until_complete(task)
        except SystemExit as error:
            if task.done():
                raise
            log_fault(logger, "a task or a callback tried to end the server", error=error)
        else:
            return


async def _cancel_tasks() -> None:
    await end_tasks(asyncio.all_tasks() - {asyncio.current_task()})


def _join_threads() -> None:
    """Wait for threads of plugins. If one does not end, exit the process: all data is written already."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(END_TIMEOUT)
            if thread.is_alive():
                logger.error("a thread did not end within %g s and is abandoned", END_TIMEOUT)
                sys.stdout.flush()
                os._exit(0)
