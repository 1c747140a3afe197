"""Check what serves TLS and HTTP: the setting `runtime`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kes_core.config.files import make_server_tls
from kes_core.config.runtimes import DEFAULT_RUNTIME, RuntimeLoadError, load_runtime
from kes_core.findings import Finding
from kes_core.tls import TLSError

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["examine_runtime"]


def examine_runtime(config: Config) -> Iterator[Finding]:
    """Check that the runtime can be loaded, and that it accepts the server's certificate."""
    name = config.runtime
    if name == DEFAULT_RUNTIME:
        yield Finding.ok("runtime", f"{name} serves TLS and HTTP")
        return
    try:
        make_server_tls(config, load_runtime(name).prepare_tls)
    except (RuntimeLoadError, TLSError) as error:
        yield Finding.error("runtime", str(error))
        return
    yield Finding.note(
        "runtime",
        f"{name} serves TLS and HTTP, which is experimental: it differs from {DEFAULT_RUNTIME} in some cases",
        f"the README of its package lists the differences; runtime: {DEFAULT_RUNTIME} is the default",
    )
