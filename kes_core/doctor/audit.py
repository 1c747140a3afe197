"""Check the audit sinks: a server whose sinks can't be used does not start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from kes_core.audit.log import chosen_sinks
from kes_core.boundary import Surroundings, connect_sink, diagnose
from kes_core.errors import BackendError
from kes_core.findings import Finding

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.plugins import Plugins

__all__ = ["examine_audit"]

_SUBJECT: Final = "audit log"


async def examine_audit(config: Config, plugins: Plugins) -> AsyncIterator[Finding]:
    """Check each audit sink: with the checks of its plugin, or else by connecting to it."""
    for choice in chosen_sinks(config, plugins):
        context = Surroundings().context("audit_sinks", choice.type, choice.directory)
        try:
            if choice.type.diagnose is not None:
                for finding in await diagnose(choice.type, choice.config, context):
                    yield finding
                continue
            sink = await connect_sink(choice.type, choice.config, context)
        except BackendError as error:
            yield Finding.error(_SUBJECT, str(error))
            continue
        await sink.close()
        yield Finding.ok(_SUBJECT, f"{choice.type.name!r} is ready")
