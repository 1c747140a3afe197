"""The known packages of plugins, and what to do if a plugin is not installed. Internal."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Final

__all__ = ["PACKAGES", "close", "not_installed"]

PACKAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "keystore": {"aws": "kes-aws", "fs": "kes-fs", "vault": "kes-vault"},
    "policy_engines": {"cedar": "kes-cedar"},
    "audit_sinks": {},
    "frontends": {"kubernetes": "kes-kubernetes"},
}
"""The known packages by section of the configuration and name there."""


def not_installed(name: str, installed: Collection[str], packages: Mapping[str, str]) -> str:
    """Return what to do if no installed plugin provides a key store, policy engine, and so on."""
    known = ", ".join(sorted(installed)) or "none"
    if name in packages:
        return f"no installed plugin provides it: install the package {packages[name]}; installed: {known}"
    question = close(name, {*installed, *packages})
    return f"no installed plugin provides it, and no known package does; installed: {known}{question}"


def close(name: str, known: Iterable[str]) -> str:
    """Return a question about the known name that is most like `name`, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
