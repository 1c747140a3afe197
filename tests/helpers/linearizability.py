"""Check whether a history of concurrent calls could come from one key store that handles one call at a time.

The method is that of Wing and Gong (1993): find an order in which each call takes effect at some moment between its
beginning and its end, and in which the results are those of a single register. Here a register is one key, which exists
or not. Keys are independent, so each has its own history.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Call", "Operation", "is_linearizable"]


class Operation(NamedTuple):
    """The effect of a call on a key: the state that it needs, and the state that it leaves."""

    needs: bool | None
    """Whether the key has to exist; None if it does not matter."""
    leaves: bool | None
    """Whether the key exists afterwards; None if that does not change."""


class Call(NamedTuple):
    """A call in a history: its beginning and end, and the operation that its result shows."""

    began: float
    ended: float
    """Infinite if the result is unknown: the call may take effect at any time after it began, or never."""
    operation: Operation


def is_linearizable(history: Sequence[Call], *, present: bool = False) -> bool:
    """Tell whether an order of the calls explains the history of a key.

    Args:
        history: The calls in any order.
        present: Whether the key exists at the beginning.
    """
    calls = sorted(history)
    everything = (1 << len(calls)) - 1
    unknown = sum(1 << number for number, call in enumerate(calls) if call.ended == float("inf"))
    seen: set[tuple[int, bool]] = set()
    waiting = [(0, present)]
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        done, there = state
        if done | unknown == everything:
            return True
        remaining = [(number, call) for number, call in enumerate(calls) if not done >> number & 1]
        first_end = min(call.ended for _number, call in remaining)
        for number, call in remaining:
            if call.began > first_end:
                break  # an earlier call ended before this one began, so that one comes first
            needs, leaves = call.operation
            if needs is None or needs == there:
                waiting.append((done | 1 << number, there if leaves is None else leaves))
    return False
