"""The event loop of a process of the server, which nothing but the server's own end may end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, Final

from kes_core.faults import log_fault, watch_loop

__all__ = ["run_loop"]

logger = logging.getLogger("kes.server")

END_TIMEOUT: Final = 5.0
"""Seconds that tasks and threads get to end, once the server has."""


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on an event loop of its own, to its end.

    What nobody waits for, a plugin's tasks for example, can't end it: a `SystemExit` of a task or a callback is logged.
    Tasks and threads that do not end by themselves when `main` has ended are given up after `END_TIMEOUT` each.

    Raises:
        BaseException: Whatever `main` raises.
    """
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        watch_loop(loop)
        try:
            _run(loop, loop.create_task(main))
        finally:
            _run(loop, loop.create_task(_cancel_the_rest()))
            _run(loop, loop.create_task(loop.shutdown_asyncgens()))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    _leave_threads()


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    """Run the loop until `task` has ended; raise what it raised."""
    while True:
        try:
            loop.run_until_complete(task)
        except SystemExit as error:
            if task.done():
                raise
            log_fault(logger, "a task or a callback tried to end the server", error=error)
        else:
            return


async def _cancel_the_rest() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        _done, pending = await asyncio.wait(others, timeout=END_TIMEOUT)
        if pending:
            logger.error("%d tasks did not end within %g s and are given up", len(pending), END_TIMEOUT)


def _leave_threads() -> None:
    """End the process if threads of plugins would keep it from ending: all that is to be kept has been written."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(END_TIMEOUT)
            if thread.is_alive():
                logger.error("a thread did not end within %g s and is given up", END_TIMEOUT)
                sys.stdout.flush()
                os._exit(0)
