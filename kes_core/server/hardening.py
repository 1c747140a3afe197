"""What a process of the server asks of the operating system before it holds any secret."""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["MemoryLockError", "harden"]

_MCL_CURRENT, _MCL_FUTURE = 1, 2  # linux/mman.h
_PR_SET_DUMPABLE = 4  # linux/prctl.h


class MemoryLockError(Exception):
    """The memory can't be locked. The message says why, and what to do."""


def harden(*, mlock: bool) -> None:
    """Forbid core dumps, and keep all memory out of the swap if that is wanted.

    Raises:
        MemoryLockError: The memory can't be locked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # A core dump of a key server holds keys. The limit alone does not hold back a program that takes dumps through a
    # pipe (core(5)); without the flag there are none, and no other process of the same user reads the memory either.
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
