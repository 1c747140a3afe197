"""What `kes doctor` finds about the socket and the plugin behind it. It changes nothing."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator, Sequence

from kes_core import Finding, FrontendError, PluginContext
from kes_kubernetes.client import KMSCallError, ask
from kes_kubernetes.config import KMSConfig
from kes_kubernetes.sockets import Place, answers

__all__ = ["diagnose"]

_SUBJECT = "Kubernetes"


async def diagnose(config: KMSConfig, context: PluginContext) -> Sequence[Finding]:
    """Examine the place of the socket, and ask the plugin if it runs."""
    try:
        place = Place.find(context.path(config.socket), config.mode, config.owner, config.group)
        if not place.path.parent.exists() and place.path.parent.parent.is_dir():
            return [Finding.note(_SUBJECT, f"the server will create the directory {str(place.path.parent)!r}")]
        place.check()
    except FrontendError as error:
        return [Finding.error(_SUBJECT, str(error))]
    return [*_access(place), await asyncio.to_thread(_answer, place)]


def _access(place: Place) -> Iterator[Finding]:
    directory = place.path.parent.stat()
    yield Finding.ok(_SUBJECT, f"only root and the server's user can replace the socket {str(place.path)!r}")
    if place.mode & stat.S_IRWXG and place.group >= 0 and not directory.st_mode & stat.S_IXOTH:
        may_enter = directory.st_gid == place.group and directory.st_mode & stat.S_IXGRP
        if not may_enter:
            yield Finding.warning(
                _SUBJECT,
                f"the group of the socket may not enter its directory {str(place.path.parent)!r}",
                f"chgrp {place.group} {place.path.parent} && chmod g+x {place.path.parent}",
            )


def _answer(place: Place) -> Finding:
    if not answers(place.path):
        return Finding.note(_SUBJECT, "no server listens on the socket now")
    try:
        found = ask(place.path)
    except KMSCallError as error:
        return Finding.error(_SUBJECT, str(error), "look into the log of the server that listens there")
    if found.health != "ok":
        return Finding.error(_SUBJECT, f"the plugin is not healthy: {found.health}")
    return Finding.ok(_SUBJECT, f"the plugin encrypts and decrypts; its key_id is {found.key_id}")
