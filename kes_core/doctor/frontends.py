"""Check the front ends, with the checks of their plugins. The doctor does not start them: a server may run them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from kes_core.boundary import Surroundings, diagnose
from kes_core.errors import BackendError
from kes_core.findings import Finding

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["examine_frontends"]

_SUBJECT: Final = "front end"


async def examine_frontends(config: Config) -> AsyncIterator[Finding]:
    """Check each front end."""
    for choice in config.frontends:
        if choice.type.diagnose is None:
            yield Finding.ok(_SUBJECT, f"the section of {choice.type.name!r} is valid")
            continue
        context = Surroundings().context("frontends", choice.type, choice.directory)
        try:
            for finding in await diagnose(choice.type, choice.config, context):
                yield finding
        except BackendError as error:
            yield Finding.error(_SUBJECT, str(error))
