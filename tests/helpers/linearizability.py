"""Whether a history of concurrent calls could have come from one key store that takes one call after the other.

The method is that of Wing and Gong (1993): look for an order of the calls in which each takes effect at some moment
between its beginning and its end, and in which the results are those of a single register. A register here is one key:
it is there or not. Keys do not depend on one another, so each has a history of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Call", "Operation", "is_linearizable"]


class Operation(NamedTuple):
    """What a call did to a key, if it took effect: from which states, and to which."""

    needs: bool | None
    """Whether the key has to be there, or (nothing) that does not matter."""
    leaves: bool | None
    """Whether the key is there afterwards, or (nothing) that it is as before."""


class Call(NamedTuple):
    """A call of a history: when it began and ended, and what it did by its result."""

    began: float
    ended: float
    """Infinite where the result is not known: the call may have taken effect at any time since, or never."""
    operation: Operation


def is_linearizable(history: Sequence[Call], *, present: bool = False) -> bool:
    """Tell whether there is an order that explains the history of a key.

    Args:
        history: The calls in any order.
        present: Whether the key is there at the beginning.
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
                break  # another call had ended before this one began, so it comes first
            needs, leaves = call.operation
            if needs is None or needs == there:
                waiting.append((done | 1 << number, there if leaves is None else leaves))
    return False
