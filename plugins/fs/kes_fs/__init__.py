"""The filesystem key store of kes-core: one file per key in a directory (protocol section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from kes_core import Finding, KeyStoreBackend, PluginContext, hookimpl
from kes_core.config import Section

if TYPE_CHECKING:
    from kes_fs.store import FileKeyStore

__all__ = ["FileConfig"]

kes_hookspec_version = 1


def _required(path: str) -> str:
    if not path:
        raise ValueError("is empty; expected the path of a directory")
    return path


class FileConfig(Section):
    """The section `keystore.fs`."""

    path: Annotated[str, AfterValidator(_required)]
    """The directory with the keys. The server creates it if it is missing."""


async def _connect(config: FileConfig, _context: PluginContext) -> FileKeyStore:
    from kes_fs.store import FileKeyStore

    return await FileKeyStore.open(Path(config.path))


async def _diagnose(config: FileConfig, _context: PluginContext) -> Sequence[Finding]:
    from kes_fs.doctor import diagnose

    return await diagnose(Path(config.path))


@hookimpl
def kes_keystore_backends() -> Sequence[KeyStoreBackend]:
    return [KeyStoreBackend(name="fs", config=FileConfig, connect=_connect, diagnose=_diagnose)]
