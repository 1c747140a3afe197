"""`load` reads a configuration file and returns a valid configuration and the plugins for it. Internal.

The file is read and parsed once. Everything is checked before it is used: the result is a valid configuration, or one
`ConfigError` that lists every problem with file, line and field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from kes_core.config.model import Config, ConfigError, ConfigProblem, KeyStoreChoice

if TYPE_CHECKING:
    from kes_core.config.document import Document
    from kes_core.plugins import Plugins

__all__ = ["LoadedConfig", "blocked_plugins", "load", "load_keystores", "load_values", "parse_config"]


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A valid configuration, with its plugins and warnings."""

    config: Config
    plugins: Plugins
    """The plugins of its key store and policy engines. Plugins that it blocks are not loaded."""
    warnings: tuple[ConfigProblem, ...] = ()
    """What is valid but probably a mistake, such as a rule that matches nothing."""
    filename: str = ""
    """The name of the file in messages."""
    values: str = field(default="", repr=False)
    """The values of the file and the overrides, for `load_values`. They may contain secrets.

    The first line is JSON without the policies. Each other line is the name of a policy with its values. Reading or
    writing all as one value would keep Python's lock, and so delay all requests, for tenths of a second.
    """


def load(
    path: Path,
    *,
    plugins: Plugins | None = None,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> LoadedConfig:
    """Read the configuration file at `path`.

    Args:
        path: The file.
        plugins: The plugins of key stores and policy engines; by default the installed ones, except those that the
            file blocks.
        environ: The environment variables that `${NAME}` refers to.
        overrides: Values that override the file, by path: `{"tls.key": "server.key"}`.

    Raises:
        ConfigError: The configuration can't be used.
    """
    document = _read_document(path, environ)
    if plugins is None:
        plugins = _load_plugins(document.value)
    return _check(document, str(path), plugins, overrides)


def load_values(values: str, *, filename: str, plugins: Plugins | None = None) -> LoadedConfig:
    """Return the configuration in `values`, which another process has loaded as `LoadedConfig.values`.

    It has no warnings, because that process has reported them. The other arguments and the errors are those of `load`.
    """
    from kes_core.config.document import Document
    from kes_core.config.reader import ConfigReader

    whole, *policies = values.split("\n")
    document = Document(json.loads(whole), lines={(): 0})  # only that process knows the lines
    if policies:
        document.value["policy"] = dict(map(json.loads, policies))
    if plugins is None:
        plugins = _load_plugins(document.value)
    config = ConfigReader(filename, plugins, document).read({})
    return LoadedConfig(config, plugins, filename=filename, values=values)


def parse_config(
    text: str,
    *,
    filename: str,
    plugins: Plugins,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Return the configuration in the YAML `text`; messages call it `filename`.

    The other arguments and the errors are those of `load`.
    """
    with _yaml_errors(filename):
        document = _parse(text, environ)
    return _check(document, filename, plugins, overrides).config


def load_keystores(*paths: Path, environ: Mapping[str, str] = os.environ) -> tuple[KeyStoreChoice, ...]:
    """Return the key store of each configuration file at `paths`, without checking the other sections.

    Raises:
        ConfigError: A file does not name a usable key store.
    """
    from kes_core.config.reader import ConfigReader
    from kes_core.plugins import load_plugins

    documents = [_read_document(path, environ) for path in paths]
    plugins = load_plugins(block=[name for document in documents for name in _blocked(document.value)])
    readers = (ConfigReader(str(path), plugins, found) for path, found in zip(paths, documents, strict=True))
    return tuple(reader.read_keystore() for reader in readers)


def blocked_plugins(path: Path, *, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the plugins that the configuration file at `path` blocks; none if it can't be read."""
    try:
        return _blocked(_read_document(path, environ).value)
    except ConfigError:
        return ()


def _check(document: Document, filename: str, plugins: Plugins, overrides: Mapping[str, str]) -> LoadedConfig:
    from kes_core.config.reader import ConfigReader

    reader = ConfigReader(filename, plugins, document)
    config = reader.read(overrides)
    return LoadedConfig(config, plugins, reader.warnings(config), filename, _dump(document.value))


def _dump(values: dict[str, Any]) -> str:
    """Return the form of `values` for `LoadedConfig.values`."""
    policies = values.get("policy") or {}
    lines = [json.dumps({**values, "policy": {}}), *(json.dumps(policy) for policy in policies.items())]
    return "\n".join(lines)


def _load_plugins(values: Any) -> Plugins:
    from kes_core.plugins import load_plugins

    return load_plugins(block=_blocked(values))


def _blocked(values: Any) -> tuple[str, ...]:
    """Return the plugins that a file blocks, before any is loaded. `ConfigReader` reports errors in the list."""
    section = values.get("plugins") if isinstance(values, dict) else None
    names = section.get("block") if isinstance(section, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _read_document(path: Path, environ: Mapping[str, str]) -> Document:
    from kes_core.config.document import limits

    bounds = limits()
    try:
        with path.open("rb") as file:
            data = file.read(bounds.size + 1)
    except OSError as error:
        raise ConfigError(ConfigProblem(str(path), 0, "", f"can't be read: {error.strerror}")) from None
    if len(data) > bounds.size:
        raise ConfigError(ConfigProblem(str(path), 1, "", bounds.too_large))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(ConfigProblem(str(path), line, "", "not valid YAML: not UTF-8")) from None
    with _yaml_errors(str(path)):
        return _parse(text, environ)


def _parse(text: str, environ: Mapping[str, str]) -> Document:
    from kes_core.config.document import parse
    from kes_core.config.reader import is_literal

    return parse(text, environ=environ, literal=is_literal)


@contextmanager
def _yaml_errors(filename: str) -> Iterator[None]:
    from kes_core.config.document import YAMLError
    from kes_core.config.fields import dotted

    try:
        yield
    except YAMLError as error:
        raise ConfigError(ConfigProblem(filename, error.line, dotted(error.path), str(error))) from None
