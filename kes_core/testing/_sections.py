"""Finds credentials that a plugin's sections of the configuration file hold as plain text."""

from __future__ import annotations

from collections.abc import Iterator

from kes_core.config.fields import dotted, plain_credentials
from kes_core.config.sections import Section

__all__ = ["exposed_fields"]


def exposed_fields(tested: object) -> list[str]:
    """Return the fields that look like credentials but whose type is `str`, as `Config.token`.

    Args:
        tested: A store, an engine or a sink. Its package is searched for subclasses of `Section`.
    """
    package = _package(type(tested))
    return sorted(
        dotted(path)
        for section in _subclasses(Section)
        if _package(section) == package
        for path in plain_credentials(section, (section.__name__,))
        if len(path) == 2  # noqa: PLR2004 # the fields of a nested section belong to that section
    )


def _package(found: type) -> str:
    return found.__module__.partition(".")[0]


def _subclasses(base: type[Section]) -> Iterator[type[Section]]:
    for found in base.__subclasses__():
        yield found
        yield from _subclasses(found)
