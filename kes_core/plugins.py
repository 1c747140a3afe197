"""Finds and loads plugins. A broken plugin is skipped, with one line that says why, and affects nothing else."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import MappingProxyType
from typing import Any, Final

import pluggy
from pydantic import BaseModel

from kes_core import hookspecs
from kes_core.faults import kind_of, one_line, places
from kes_core.frontends import FrontendBackend
from kes_core.hookspecs import HOOKSPEC_VERSION, PROJECT, AuditSinkType, KeyStoreBackend, PolicyEngineType

__all__ = ["PluginInfo", "Plugins", "load_plugins"]

logger = logging.getLogger("kes.plugins")

_VERSION_ATTRIBUTE: Final = "kes_hookspec_version"
_BUILT_IN: Final = "kes-core"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", re.ASCII)
_MAX_SHOWN: Final = 100
_LOOK: Final = "`kes plugins --debug` shows more"
_CONTRIBUTIONS: Final = {
    "kes_keystore_backends": KeyStoreBackend,
    "kes_policy_engines": PolicyEngineType,
    "kes_audit_sinks": AuditSinkType,
    "kes_frontends": FrontendBackend,
}
_KINDS: Final = {
    "kes_keystore_backends": "key store",
    "kes_policy_engines": "policy engine",
    "kes_audit_sinks": "audit sink",
    "kes_frontends": "front end",
}


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """An installed plugin: what it contributes, or why it was skipped."""

    name: str
    """The name of its entry point."""
    distribution: str
    version: str
    backends: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    frontends: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    """The other hooks that it implements."""
    error: str | None = None
    """Why it was skipped, in one line."""
    blocked: bool = False
    """Whether it was skipped because the configuration says so."""
    disputed: str = ""
    """The name that another plugin also offers, if that is why it was skipped."""
    details: str = field(default="", repr=False)
    """The text and the places of the exception that made kes-core skip it. They may contain a secret."""


@dataclass(frozen=True, slots=True)
class Plugins:
    """The loaded plugins, and those that were skipped."""

    infos: tuple[PluginInfo, ...]
    backends: Mapping[str, KeyStoreBackend]
    engines: Mapping[str, PolicyEngineType]
    hook: Any
    """The hooks of all loaded plugins: `hook.kes_server_started` has its implementations."""
    sinks: Mapping[str, AuditSinkType] = field(default_factory=dict)
    frontends: Mapping[str, FrontendBackend] = field(default_factory=dict)

    def why_not(self, name: str) -> str | None:
        """Return why the plugin that should provide `name` was skipped; None if no such plugin was skipped."""
        for info in self.infos:
            names = {info.name, info.distribution, info.distribution.removeprefix("kes-"), info.disputed}
            if info.error is not None and name in names:
                return f"the plugin that should provide it was skipped: {info.error}"
        return None


class _PluginError(Exception):
    """A plugin can't be used; the message says why. `error` is the plugin's own exception, if any."""

    def __init__(self, message: str, error: BaseException | None = None, *, disputed: str = "") -> None:
        super().__init__(message)
        self.error = error
        self.disputed = disputed


def load_plugins(
    entry_points: Iterable[metadata.EntryPoint] | None = None,
    *,
    block: Collection[str] = (),
) -> Plugins:
    """Load the installed plugins.

    Args:
        entry_points: The entry points to load; by default those of the group `kes`.
        block: Names of entry points or distributions that are not loaded. Their modules are not imported.
    """
    if entry_points is None:
        entry_points = metadata.entry_points(group=PROJECT)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    loader = _Loader(manager)
    # The core's plugins come first, so that no other plugin takes their names. The order is the same at each start.
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
    backends, engines, sinks, frontends = (MappingProxyType(loader.taken[kind]) for kind in _KINDS.values())
    return Plugins(tuple(loader.infos), backends, engines, manager.hook, sinks, frontends)


def _distribution(point: metadata.EntryPoint) -> tuple[str, str]:
    if point.dist is None:
        return "unknown", ""
    # Damaged metadata has neither, whatever the types say.
    return str(point.dist.name or "unknown"), str(point.dist.version or "")


class _Loader:
    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager
        self._disputed: dict[tuple[str, str], str] = {}
        """The plugin that offered a name first, for each name that several plugins offer. None of them gets it."""
        self.infos: list[PluginInfo] = []
        self.taken: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS.values()}
        """What plugins contribute, by kind and name."""

    def _dispute(self, what: str, name: str, label: str) -> str:
        """Take a name that a second plugin offers away from the first; return why neither gets it.

        The core keeps its names.
        """
        holder = self._disputed.get((what, name)) or self.taken[what][name].origin
        for position, info in enumerate(self.infos):
            contributions = (info.backends, info.engines, info.sinks, info.frontends)
            offered = dict(zip(_KINDS.values(), contributions, strict=True))
            if name in offered[what] and info.error is None and info.distribution != _BUILT_IN:
                self._disputed[what, name] = holder
                for kind, names in offered.items():
                    for each in names:
                        del self.taken[kind][each]
                self._manager.unregister(name=f"{info.distribution}:{info.name}")
                error = f"{holder}: the name {name!r} of its {what} is also offered by the {label}; block one of them"
                self.infos[position] = PluginInfo(
                    info.name, info.distribution, info.version, error=error, disputed=name
                )
        if f" of {_BUILT_IN} " in holder:
            return f"the name {name!r} of its {what} belongs to {_BUILT_IN}; its author has to choose another"
        return f"the name {name!r} of its {what} is also offered by the {holder}; block one of them"

    def skip(self, point: metadata.EntryPoint) -> None:
        """Do not load a plugin; record that it is installed."""
        error = f"plugin {point.name!r} of {' '.join(_distribution(point)).rstrip()}: it is blocked by plugins.block"
        self.infos.append(PluginInfo(point.name, *_distribution(point), error=error, blocked=True))

    def load(self, point: metadata.EntryPoint) -> None:
        distribution, version = _distribution(point)
        label = f"plugin {point.name!r} of {distribution} {version}".rstrip()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # standard output has results of commands, and audit records
                plugin, found = self._examine(point, f"{distribution}:{point.name}", label)
        except _PluginError as error:
            name = f"{distribution}:{point.name}"
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            details = _details(error.error)
            self.infos.append(
                PluginInfo(
                    point.name,
                    distribution,
                    version,
                    error=f"{label}: {error}",
                    disputed=error.disputed,
                    details=details,
                )
            )
            return
        for kind, items in found.items():
            self.taken[kind] |= items
        backends, engines, sinks, frontends = (tuple(items) for items in found.values())
        callers = self._manager.get_hookcallers(plugin) or []
        hooks = tuple(caller.name for caller in callers if caller.name not in _CONTRIBUTIONS)
        self.infos.append(PluginInfo(point.name, distribution, version, backends, engines, sinks, frontends, hooks))

    def _examine(self, point: metadata.EntryPoint, name: str, label: str) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Import and register a plugin; return it, and what it contributes, by kind and name.

        Raises:
            _PluginError: It can't be used.
        """
        try:
            plugin = _import(point)
            contributed = self._register(plugin, name)
            return plugin, {
                kind: self._take(contributed[hook], self.taken[kind], kind, label) for hook, kind in _KINDS.items()
            }
        except (KeyboardInterrupt, _PluginError):
            raise
        except BaseException as error:  # code of a plugin runs wherever its objects are looked at
            raise _PluginError(f"can't be examined: {kind_of(error)}; {_LOOK}", error) from None

    def _register(self, plugin: Any, name: str) -> dict[str, list[Any]]:
        """Register a plugin if it follows the specifications; return what its hooks contribute."""
        # Try in a separate manager: after a failure, pluggy leaves a plugin half registered.
        trial = pluggy.PluginManager(PROJECT)
        trial.add_hookspecs(hookspecs)
        try:
            trial.register(plugin, name=name)
            trial.check_pending()
        except pluggy.PluginValidationError as error:
            raise _PluginError(one_line(str(error))) from None
        for caller in trial.get_hookcallers(plugin) or []:
            for each in caller.get_hookimpls():
                if inspect.iscoroutinefunction(each.function):
                    raise _PluginError(f"its hook {caller.name} must not be an 'async def' function")
                if each.wrapper or each.hookwrapper or inspect.isgeneratorfunction(each.function):
                    raise _PluginError(f"its hook {caller.name} must not be a generator or a wrapper")
        contributed = {hook: _call(trial, hook, kind) for hook, kind in _CONTRIBUTIONS.items()}
        try:
            self._manager.register(plugin, name=name)
        except ValueError:
            raise _PluginError("it is registered already, under another name") from None
        return contributed

    def _take(self, items: list[Any], taken: Mapping[str, Any], what: str, label: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for item in items:
            if not isinstance(item.name, str) or not _NAME.fullmatch(item.name):
                shown = one_line(repr(item.name), _MAX_SHOWN)
                raise _PluginError(f"{shown} is not a valid name for a {what}: expected lower-case words")
            if item.name in found:
                raise _PluginError(f"the name {item.name!r} of its {what} is there twice")
            if item.name in taken or (what, item.name) in self._disputed:
                raise _PluginError(self._dispute(what, item.name, label), disputed=item.name)
            _check_functions(item, f"its {what} {item.name!r}")
            found[item.name] = replace(item, origin=label)
        return found


def _check_functions(item: Any, whose: str) -> None:
    """Check what a plugin contributes: its model and its functions.

    Raises:
        _PluginError: One of them is of the wrong kind.
    """
    if not (inspect.isclass(item.config) and issubclass(item.config, BaseModel)):
        raise _PluginError(f"the 'config' of {whose} is not a pydantic model")
    if not callable(item.connect):
        raise _PluginError(f"the 'connect' of {whose} is not a function")
    for optional in ("diagnose", "access_policy"):
        if not (getattr(item, optional, None) is None or callable(getattr(item, optional))):
            raise _PluginError(f"the {optional!r} of {whose} is not a function")
    for name in ("connect", "diagnose"):
        function = getattr(item, name, None)
        if inspect.isroutine(function) and not inspect.iscoroutinefunction(function):
            raise _PluginError(f"the {name!r} of {whose} is not an 'async def' function")
        if function is not None and not _takes(function, 2):
            raise _PluginError(f"the {name!r} of {whose} must take two arguments: config and context")


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether a function can be called with this number of positional arguments, as far as that is known."""
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature
        pass
    return True


def _import(point: metadata.EntryPoint) -> Any:
    try:
        plugin = point.load()
        version = getattr(plugin, _VERSION_ATTRIBUTE, None)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        distribution = _distribution(point)[0]
        hint = f"install what it needs: pip install --upgrade {distribution}"
        missing = one_line(str(error.name), _MAX_SHOWN)
        raise _PluginError(f"can't be imported: the module {missing!r} is missing; {hint}", error) from None
    except BaseException as error:  # a plugin may raise anything, also SystemExit, and must not break the server
        raise _PluginError(f"can't be imported: {kind_of(error)}; {_LOOK}", error) from None
    if version is None:
        raise _PluginError(f"does not say which hook specifications it is for: set {_VERSION_ATTRIBUTE} = 1")
    versions = version if isinstance(version, set | frozenset | range) else (version,)
    if HOOKSPEC_VERSION not in versions:
        raise _PluginError(
            f"is for version {one_line(repr(version), _MAX_SHOWN)} of the hook specifications, this is version "
            f"{HOOKSPEC_VERSION}; install a release of the plugin that fits"
        )
    return plugin


def _call(manager: pluggy.PluginManager, hook: str, kind: type[Any]) -> list[Any]:
    """Return what the only plugin of `manager` contributes with a hook."""
    items: list[Any] = []
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            # Without pluggy, which drops None: the result of a function without `return`.
            answer = implementation.function()
            fits = isinstance(answer, list | tuple) and all(isinstance(item, kind) for item in answer)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # as above
            raise _PluginError(f"its hook {hook} failed: {kind_of(error)}; {_LOOK}", error) from None
        if not fits:
            returned = f", and returned {kind_of(answer)}" if not isinstance(answer, list | tuple) else ""
            raise _PluginError(f"its hook {hook} must return a list of {kind.__name__}{returned}")
        items += answer
    return items


def _details(error: BaseException | None) -> str:
    """Return the text and the places of a plugin's exception, for `kes plugins --debug` only."""
    if error is None:
        return ""
    try:
        text = one_line(str(error))
    except Exception:  # the plugin's own class of exceptions
        text = "it can't be shown"
    return f"{kind_of(error)}: {text}\n{places(error)}"
