"""The garbage collector while a process of the server starts, or reads its configuration again.

A start makes more than a hundred thousand objects that stay, and hardly any garbage. Collections would visit these
objects again and again, and take a fifth of the time.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

__all__ = ["begin", "end", "reloading"]

_MANY: Final = 1_000_000
"""More objects than a start makes. If the start waits for its key store for long, there are still collections."""
_USUAL: Final = gc.get_threshold()


def begin() -> None:
    """Collect hardly any garbage from now on. Call this before the server's modules are imported."""
    gc.set_threshold(_MANY, *_USUAL[1:])


def end() -> None:
    """Collect garbage as usual from now on, but never visit again what is loaded by now."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


@contextlib.contextmanager
def reloading() -> Iterator[None]:
    """Do not visit all objects meanwhile, only young ones: no thread goes on during a collection."""
    gc.set_threshold(*_USUAL[:2], _MANY)
    try:
        yield
    finally:
        gc.set_threshold(*_USUAL)
