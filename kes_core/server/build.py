"""What runs: the version of the server, and the commit that it was installed from."""

from __future__ import annotations

import functools
import json
from importlib import metadata
from typing import Final

__all__ = ["commit", "version"]

_UNKNOWN: Final = "<unknown>"


@functools.cache
def version() -> str:
    """Return the version of the server."""
    return metadata.version("kes-core")


@functools.cache
def commit() -> str:
    """Return the commit the server was installed from, where the installer has noted one."""
    text = metadata.distribution("kes-core").read_text("direct_url.json")
    origin = json.loads(text) if text else {}
    found = origin.get("vcs_info", {}).get("commit_id", _UNKNOWN)
    return str(found)
