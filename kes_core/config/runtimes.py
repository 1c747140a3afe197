"""The setting `runtime`: what serves TLS and HTTP. The runtime of the core is the default; others are packages."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any, Final

from pydantic import AfterValidator, WithJsonSchema

__all__ = ["DEFAULT_RUNTIME", "RuntimeLoadError", "RuntimeName", "default_runtime", "load_runtime"]

DEFAULT_RUNTIME: Final = "hypercorn"
"""The runtime that is part of the core."""
_GROUP: Final = "kes.runtimes"
_PACKAGES: Final = {"native": "kes-native"}
"""The packages of the other runtimes, by name of the runtime."""
_AUTO: Final = "auto"
"""Chooses the first of the other runtimes that is installed, or else the default."""
_CORE: Final = "kes-core"


_VARIABLE: Final = "KES_RUNTIME"


class RuntimeLoadError(Exception):
    """An installed runtime can't be loaded. The message says why, and what to do."""


def default_runtime() -> str:
    """Return the value of `runtime` for a configuration that has none: that of KES_RUNTIME, which an image can set."""
    return os.environ.get(_VARIABLE) or DEFAULT_RUNTIME


def load_runtime(name: str) -> type[Any]:
    """Return the class of a runtime that is not part of the core: a `kes_core.server.wire.listener.Runtime`.

    Raises:
        RuntimeLoadError: It can't be loaded.
    """
    package = _PACKAGES[name]
    found = _found(name)[0]
    built_for, core = "" if found.dist is None else found.dist.version, version(_CORE)
    if built_for != core:  # a runtime uses internal parts of the core
        remedy = f"install {package} {core}, or set runtime: {DEFAULT_RUNTIME}"
        raise RuntimeLoadError(f"{package} {built_for} is made for {_CORE} {built_for}, and this is {core}: {remedy}")
    try:
        runtime: type[Any] = found.load()
    except Exception as error:  # also of foreign code: a module for another machine, or for another release
        kind = type(error).__name__
        message = f"the package {package} can't be loaded ({kind}): reinstall it, or set runtime: {DEFAULT_RUNTIME}"
        raise RuntimeLoadError(message) from error
    return runtime


def _found(name: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=_GROUP, name=name))


def _check(name: str) -> str:
    """Return the name of the runtime that `name` stands for."""
    if name == DEFAULT_RUNTIME:
        return name
    if name == _AUTO:
        return next((other for other in _PACKAGES if _found(other)), DEFAULT_RUNTIME)
    package = _PACKAGES.get(name)
    source = f" (from the environment variable {_VARIABLE})" if os.environ.get(_VARIABLE) == name else ""
    if package is None:
        raise ValueError(f"is not a runtime; allowed: {', '.join(_NAMES)}{source}")
    if not _found(name):
        raise ValueError(f"{name} needs the package {package}: install it, or set runtime: {DEFAULT_RUNTIME}{source}")
    return name


_NAMES: Final = (_AUTO, DEFAULT_RUNTIME, *_PACKAGES)
RuntimeName = Annotated[str, AfterValidator(_check), WithJsonSchema({"enum": list(_NAMES)})]
"""The name of a runtime that is installed; `auto` becomes such a name."""
