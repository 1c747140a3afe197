"""Reading a configuration file: `load_config` and what belongs to it.

Everything is checked before anything is used: the result is a configuration that is valid as a whole, or one
`ConfigError` that lists every problem with file, line and field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from kes_core.config.model import Config, ConfigError, ConfigProblem, KeyStoreChoice

if TYPE_CHECKING:
    from kes_core.plugins import Plugins

__all__ = ["ConfigSource", "blocked_plugins", "load_config", "load_keystore", "parse_config"]


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where a server's configuration comes from, to be read again."""

    path: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Fields that are given elsewhere and win, as for `parse_config`."""

    def read(self) -> str:
        """Return the text of the file.

        Raises:
            ConfigError: It can't be read.
        """
        return _read(self.path)

    def parse(self, text: str, plugins: Plugins) -> Config:
        """Return the configuration that `text`, which the file held, stands for; errors are those of `parse_config`."""
        return parse_config(text, filename=str(self.path), plugins=plugins, overrides=self.overrides)

    def blocked(self, text: str) -> tuple[str, ...]:
        """Return the plugins that `text` blocks, before any is loaded. What is wrong with it `parse` tells."""
        return _blocked(text, os.environ)


def load_config(
    path: Path,
    *,
    plugins: Plugins,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Read the configuration file at `path`; arguments and errors are those of `parse_config`."""
    return parse_config(_read(path), filename=str(path), plugins=plugins, environ=environ, overrides=overrides)


def load_keystore(path: Path, *, plugins: Plugins, environ: Mapping[str, str] = os.environ) -> KeyStoreChoice:
    """Read the key store of the configuration file at `path`, which may have other sections or not.

    Raises:
        ConfigError: It names none that can be used.
    """
    from kes_core.config.reader import ConfigReader

    return ConfigReader(str(path), plugins).read_keystore(_read(path), environ)


def blocked_plugins(path: Path, *, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the plugins that the configuration file at `path` blocks, before any is loaded.

    What is wrong in the file is not told here: `load_config` does.
    """
    try:
        return _blocked(_read(path), environ)
    except ConfigError:
        return ()


def _blocked(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    from kes_core.config.document import YAMLError, parse  # only who reads configurations needs it

    try:
        value = parse(text, environ=environ, literal=lambda _path: False).value
    except YAMLError:
        return ()
    section = value.get("plugins") if isinstance(value, dict) else None
    names = section.get("block") if isinstance(section, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def _read(path: Path) -> str:
    from kes_core.config.document import MAX_SIZE  # only who reads configurations needs it

    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(ConfigProblem(str(path), 0, "", f"can't be read: {error.strerror}")) from None
    if len(data) > MAX_SIZE:
        raise ConfigError(ConfigProblem(str(path), 1, "", f"larger than {MAX_SIZE} bytes"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(ConfigProblem(str(path), line, "", "no valid YAML: not UTF-8")) from None


def parse_config(
    text: str,
    *,
    filename: str,
    plugins: Plugins,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> Config:
    """Read a configuration.

    Args:
        text: The YAML.
        filename: What messages call the file.
        plugins: Where key stores and policy engines come from.
        environ: The environment variables that `${NAME}` refers to.
        overrides: Fields that are given elsewhere and win, by their path: `{"tls.key": "server.key"}`.

    Raises:
        ConfigError: It can't be used.
    """
    from kes_core.config.reader import ConfigReader

    return ConfigReader(filename, plugins).read(text, environ, overrides)
