"""Carries out the deletions of keys that clients have scheduled, and warns of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from kes_core.faults import log_fault
from kes_core.keys.changes import TooManyChangesError
from kes_core.keys.deletion import DeletionSchedule, ScheduledDeletion, delete_due
from kes_core.keys.stored import KeyState, Timestamp
from kes_core.keystore import KeyStoreError

if TYPE_CHECKING:
    from kes_core.keys.cache import KeyCache
    from kes_core.server.metrics import Metrics
    from kes_core.server.state import State

__all__ = ["DeletionWatch"]

logger = logging.getLogger("kes.keystore")

_REPEAT: Final = 86400
"""Seconds until a warning is repeated."""
_SHOWN: Final = 5


class DeletionWatch:
    """Looks for keys that are to be deleted, and deletes those whose time has come. One process of a server runs it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._schedule = DeletionSchedule()
        self._warned_of: set[ScheduledDeletion] = set()
        self._warned_at = 0.0

    async def run(self, current: Callable[[], State]) -> None:
        """Look again and again, as the configuration of the current state says, until cancelled."""
        while True:
            state = current()
            if state.config.deletion.scheduled:
                try:
                    await self.check(state.cache)
                except KeyStoreError as error:
                    # The cache logs why the store can't serve.
                    level = logging.DEBUG if error.reason is not None else logging.ERROR
                    logger.log(level, "failed to look for keys that are to be deleted: %s", error)
                except Exception as error:  # otherwise no key would ever be deleted again
                    log_fault(logger, "internal error: no key is deleted as scheduled", error=error)
            else:
                self._metrics.scheduled_deletions = None
            await asyncio.sleep(state.config.deletion.interval)

    async def check(self, cache: KeyCache) -> None:
        """Look once: delete the keys that are due, and count and warn of the others.

        Raises:
            KeyStoreError: The store fails.
        """
        left = []
        for found in await self._schedule.read(cache.store):
            if found.condition.delete_at <= time.time():
                await self._delete(cache, found)
            elif found.condition.state is KeyState.SCHEDULED_FOR_DELETION:
                left.append(found)
        self._metrics.scheduled_deletions = [found.condition.delete_at for found in left]
        self._warn(left)

    async def _delete(self, cache: KeyCache, found: ScheduledDeletion) -> None:
        try:
            is_deleted = await cache.change(found.key, partial(delete_due, found=found))
        except (KeyStoreError, TooManyChangesError) as error:
            logger.error("failed to delete key %r as scheduled: %s", found.key, error)  # expected
        else:
            if is_deleted:
                logger.warning("key %r is deleted, as %s has scheduled it", found.key, found.asked_by or "somebody")

    def _warn(self, left: Sequence[ScheduledDeletion]) -> None:
        """Log which keys are to be deleted: those that are new, and all of them once a day."""
        now = time.monotonic()
        is_daily = not self._warned_of or now - self._warned_at >= _REPEAT
        shown = list(left) if is_daily else [found for found in left if found not in self._warned_of]
        self._warned_of = set(left)
        if is_daily:
            self._warned_at = now
        if not shown:
            return
        shown.sort(key=lambda found: found.condition.delete_at)
        keys = ", ".join(
            f"{found.key!r} at {Timestamp(found.condition.delete_at).rfc3339()}" for found in shown[:_SHOWN]
        )
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        logger.warning("keys are scheduled for deletion: %s%s; `kes key undelete` keeps a key", keys, more)
