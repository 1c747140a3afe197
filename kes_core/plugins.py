"""Finding and loading plugins. One that is broken is skipped with a line that says why, and breaks nothing else."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from types import MappingProxyType
from typing import Any, Final, TypeVar

import pluggy
from pydantic import BaseModel

from kes_core import hookspecs
from kes_core.hookspecs import HOOKSPEC_VERSION, PROJECT, KeyStoreBackend, PolicyEngineType
from kes_core.keystore import KeyStoreError

__all__ = ["PluginInfo", "Plugins", "connect", "load_plugins"]

T = TypeVar("T")

logger = logging.getLogger("kes.plugins")

_VERSION_ATTRIBUTE: Final = "kes_hookspec_version"
_BUILT_IN: Final = "kes-core"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", re.ASCII)
_CONTRIBUTIONS: Final = {"kes_keystore_backends": KeyStoreBackend, "kes_policy_engines": PolicyEngineType}


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """An installed plugin: what it contributes, or why it was skipped."""

    name: str
    """The name of its entry point."""
    distribution: str
    version: str
    backends: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """The other hooks that it implements."""
    error: str | None = None
    """Why it was skipped, in one line."""
    blocked: bool = False
    """Whether it was skipped because the configuration says so."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """The loaded plugins, and those that were skipped."""

    infos: tuple[PluginInfo, ...]
    backends: Mapping[str, KeyStoreBackend]
    engines: Mapping[str, PolicyEngineType]
    hook: Any
    """Calls the hooks of all loaded plugins: `hook.kes_server_started(server=...)`."""

    def why_not(self, name: str) -> str | None:
        """Return why the plugin that should provide `name` was skipped, if there is one."""
        for info in self.infos:
            names = {info.name, info.distribution, info.distribution.removeprefix("kes-")}
            if info.error is not None and name in names:
                return f"the plugin that should provide it was skipped: {info.error}"
        return None


async def connect(what: str, function: Callable[[Any], Awaitable[T]], settings: BaseModel) -> T:
    """Call a plugin's `connect`; return the key store or policy engine that it gives.

    Args:
        what: What messages call it: "the key store 'fs'".
        function: The plugin's.
        settings: Its section of the configuration.

    Raises:
        KeyStoreError: It can't be used. What else a plugin raises may hold credentials: of that, only the type is told.
    """
    try:
        return await function(settings)
    except KeyStoreError:
        raise
    except Exception as error:
        logger.debug("%s failed", what, exc_info=True)
        raise KeyStoreError(
            f"{what} failed with a {type(error).__name__}, which is a fault of its plugin; log.error: debug shows where"
        ) from None


class _PluginError(Exception):
    """A plugin can't be used; the message says why."""


def load_plugins(
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    *,
    block: Collection[str] = (),
    specifications: Any = hookspecs,
) -> Plugins:
    """Load the plugins that are installed.

    Args:
        entry_points: Those of the group `kes` unless others are given.
        block: The names of entry points or distributions that are left alone: they are not even imported.
        specifications: The module of the hook specifications.
    """
    if entry_points is None:
        entry_points = metadata.entry_points(group=PROJECT)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specifications)
    loader = _Loader(manager, specifications)
    # The core's own first, so that nobody takes their names; then in an order that does not change from start to start.
    unique = {(_distribution(point), point.name, point.value): point for point in entry_points}
    known: set[str] = set()
    for key in sorted(unique, key=lambda key: (key[0][0] != _BUILT_IN, key)):
        point = unique[key]
        names = {point.name, _distribution(point)[0]}
        if names & set(block):
            loader.skip(point)
        else:
            loader.load(point)
        known |= names
    for name in sorted(set(block) - known):
        logger.warning("plugins.block names %r, and no plugin of that name is installed", name)
    backends, engines = MappingProxyType(loader.backends), MappingProxyType(loader.engines)
    return Plugins(tuple(loader.infos), backends, engines, manager.hook)


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown", ""
    return point.dist.name, point.dist.version


class _Loader:
    def __init__(self, manager: pluggy.PluginManager, specifications: Any) -> None:
        self._manager = manager
        self._specifications = specifications
        self.infos: list[PluginInfo] = []
        self.backends: dict[str, KeyStoreBackend] = {}
        self.engines: dict[str, PolicyEngineType] = {}

    def skip(self, point: metadata.EntryPoint) -> None:
        """Leave a plugin alone, and remember that it is there."""
        error = f"plugin {point.name!r} of {' '.join(_distribution(point)).rstrip()}: it is blocked by plugins.block"
        self.infos.append(PluginInfo(point.name, *_distribution(point), error=error, blocked=True))

    def load(self, point: metadata.EntryPoint) -> None:
        distribution, version = _distribution(point)
        label = f"plugin {point.name!r} of {distribution} {version}".rstrip()
        try:
            plugin = _import(point)
            contributed = self._register(plugin, f"{distribution}:{point.name}", label)
            backends = self._take(contributed["kes_keystore_backends"], self.backends, "key store")
            engines = self._take(contributed["kes_policy_engines"], self.engines, "policy engine")
        except _PluginError as error:
            name = f"{distribution}:{point.name}"
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self.infos.append(PluginInfo(point.name, distribution, version, error=f"{label}: {error}"))
            return
        self.backends |= backends
        self.engines |= engines
        callers = self._manager.get_hookcallers(plugin) or []
        hooks = tuple(caller.name for caller in callers if caller.name not in _CONTRIBUTIONS)
        self.infos.append(PluginInfo(point.name, distribution, version, tuple(backends), tuple(engines), hooks))

    def _register(self, plugin: Any, name: str, label: str) -> dict[str, list[Any]]:
        """Register a plugin if it keeps to the specifications; return what its hooks contribute."""
        # In a manager of its own: pluggy keeps a plugin whose registration has failed half registered.
        trial = pluggy.PluginManager(PROJECT)
        trial.add_hookspecs(self._specifications)
        try:
            with warnings.catch_warnings(record=True) as deprecations:
                warnings.simplefilter("always", DeprecationWarning)
                trial.register(plugin, name=name)
            trial.check_pending()
        except pluggy.PluginValidationError as error:
            raise _PluginError(" ".join(str(error).split())) from None
        for text in dict.fromkeys(str(deprecation.message) for deprecation in deprecations):
            logger.warning("%s: %s", label, text)
        contributed = {hook: _call(trial, hook, kind) for hook, kind in _CONTRIBUTIONS.items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # they have been told
                self._manager.register(plugin, name=name)
        except ValueError:
            raise _PluginError("it is registered already, under another name") from None
        return contributed

    def _take(self, items: list[Any], taken: Mapping[str, Any], what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in items:
            if not isinstance(item.name, str) or not _NAME.fullmatch(item.name):
                raise _PluginError(f"{item.name!r} is not a valid name for a {what}: expected lower-case words")
            if item.name in taken or item.name in found:
                raise _PluginError(f"the name {item.name!r} of its {what} is taken by another plugin")
            if not (inspect.isclass(item.config) and issubclass(item.config, BaseModel)):
                raise _PluginError(f"the 'config' of its {what} {item.name!r} is not a pydantic model")
            if not callable(item.connect):
                raise _PluginError(f"the 'connect' of its {what} {item.name!r} is not a function")
            for field in ("diagnose", "access_policy"):
                if not (getattr(item, field, None) is None or callable(getattr(item, field))):
                    raise _PluginError(f"the {field!r} of its {what} {item.name!r} is not a function")
            found[item.name] = item
        return found


def _import(point: metadata.EntryPoint) -> Any:
    try:
        plugin = point.load()
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        distribution = _distribution(point)[0]
        hint = f"install what it needs: pip install --upgrade {distribution}"
        raise _PluginError(f"can't be imported: {_one_line(error)}; {hint}") from error
    except BaseException as error:  # a plugin may raise anything, SystemExit too, and must break nothing
        raise _PluginError(f"can't be imported: {_one_line(error)}") from error
    version = getattr(plugin, _VERSION_ATTRIBUTE, None)
    if version is None:
        raise _PluginError(f"does not say which hook specifications it is for: set {_VERSION_ATTRIBUTE} = 1")
    if version != HOOKSPEC_VERSION:
        raise _PluginError(
            f"is for version {version!r} of the hook specifications, this is version {HOOKSPEC_VERSION}; "
            "install a release of the plugin that fits"
        )
    return plugin


def _call(manager: pluggy.PluginManager, hook: str, kind: type[Any]) -> list[Any]:
    try:
        answers = getattr(manager.hook, hook)()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as above
        raise _PluginError(f"its hook {hook} failed: {_one_line(error)}") from error
    items: list[Any] = []
    for answer in answers:
        if not isinstance(answer, list | tuple) or not all(isinstance(item, kind) for item in answer):
            raise _PluginError(f"its hook {hook} must return a list of {kind.__name__}")
        items += answer
    return items


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
