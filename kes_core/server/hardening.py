"""Protect the memory of a server process, before it holds any secret."""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["MemoryLockError", "harden"]

_MCL_CURRENT, _MCL_FUTURE = 1, 2  # linux/mman.h
_PR_SET_DUMPABLE = 4  # linux/prctl.h


class MemoryLockError(Exception):
    """The memory can't be locked. The message says why and how to fix it."""


def harden(*, mlock: bool) -> None:
    """Disable core dumps. With `mlock`, keep all memory out of swap.

    Raises:
        MemoryLockError: The memory can't be locked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A core dump of a key server contains keys. The limit does not apply if the system pipes core dumps to a program
    # (core(5)). Clearing the dumpable flag prevents those too, and keeps other processes of the user from the memory.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if not mlock:
        return
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise MemoryLockError(
            f"can't lock memory: {reason}; grant the capability CAP_IPC_LOCK or raise the limit of locked memory "
            "(ulimit -l), or start without --mlock"
        )
