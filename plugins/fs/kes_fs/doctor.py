"""What `kes doctor` finds in the key directory. It changes nothing: it creates no directory and removes no file."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from kes_core import BlockingCalls, Finding, KeyStoreError
from kes_core.names import is_valid_name
from kes_fs.access import is_own_group
from kes_fs.store import TIME_LIMIT, FileKeyStore

__all__ = ["diagnose"]

_SUBJECT: Final = "key store"
_LITTLE_SPACE: Final = 16 * 1024 * 1024
"""Bytes. A key takes one block of the file system, usually 4096 bytes."""
_FEW_FILES: Final = 1000


async def diagnose(path: Path) -> Sequence[Finding]:
    """Examine the key directory at `path`. It may be missing."""
    path = path.absolute()  # noqa: ASYNC240 # does not access the disk
    calls, store = BlockingCalls("fs-doctor"), FileKeyStore(path)
    try:
        async with asyncio.timeout(TIME_LIMIT):
            missing = await calls.run(_missing, path)
            if missing is not None:
                return [missing]
            may_write = await store.check()
            names = [name for name in (await store.list(limit=2**31)).names if is_valid_name(name)]
            count = f"{len(names)} key{'s'[: len(names) != 1]}"
            if not may_write:
                text = f"the directory {str(path)!r} can be read, and holds {count}"
                return [Finding.note(_SUBJECT, f"{text}; the server can't create or delete keys there")]
            usable = Finding.ok(_SUBJECT, f"the directory {str(path)!r} can be used, and holds {count}")
            return [
                usable,
                *await calls.run(lambda: [*_owner(path), *_leftovers(store, path), *_space(os.statvfs(path), path)]),
            ]
    except TimeoutError:
        return [Finding.error(_SUBJECT, f"the file system of {str(path)!r} does not answer within {TIME_LIMIT:g} s")]
    except KeyStoreError as error:
        return [Finding.error(_SUBJECT, str(error), _cure(path, error))]
    except OSError as error:
        return [Finding.error(_SUBJECT, f"the key directory {str(path)!r} can't be looked at: {error.strerror}")]
    finally:
        calls.close()
        await store.close()


def _missing(path: Path) -> Finding | None:
    """Return the finding for a missing directory; None if it exists."""
    if os.path.lexists(path):
        return None
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return Finding.error(
            _SUBJECT,
            f"the key directory {str(path)!r} is missing, and the server may not create it in {str(parent)!r}",
            f"install -d -m 0700 -o <user of the server> {path}",
        )
    return Finding.note(
        _SUBJECT,
        f"the key directory {str(path)!r} is missing: the server creates it, without keys, when it starts",
        "check keystore.fs.path if there should be keys",
    )


def _cure(path: Path, error: KeyStoreError) -> str:
    """Return what to do about a directory that can't be used; empty if that is unknown."""
    if not path.is_dir():
        return f"{path} has to be a directory: move what is there away, or set keystore.fs.path"
    if "chmod" in str(error):
        return ""
    return f"chown -R <user of the server> {path}, and run the doctor as that user"


def _owner(path: Path) -> Iterator[Finding]:
    status = path.stat()
    owner = status.st_uid
    is_shared = status.st_mode & stat.S_IWGRP and is_own_group(status)  # like Kubernetes' `fsGroup`
    if owner != os.geteuid() and not is_shared:
        yield Finding.warning(
            _SUBJECT,
            f"the key directory {str(path)!r} belongs to user {owner}, and this is user {os.geteuid()}",
            f"run the doctor and the server as one user; if that is this one: chown -R {os.geteuid()} {path}",
        )


def _leftovers(store: FileKeyStore, path: Path) -> Iterator[Finding]:
    count = len(store.leftovers())
    if count:
        yield Finding.warning(
            _SUBJECT,
            f"there are {count} temporary file(s) in {str(path)!r}, which may hold the text of keys, also of deleted "
            "ones: a server was killed or could not remove them, or writes a key just now",
            "restart the server: it removes those that no living server writes",
        )


def _space(disk: os.statvfs_result, path: Path) -> Iterator[Finding]:
    """Yield a finding if the disk is nearly full. Some file systems do not count files: their total is 0."""
    free = disk.f_bavail * disk.f_frsize
    if free < _LITTLE_SPACE:
        yield Finding.warning(
            _SUBJECT,
            f"there are {free // 1024} KiB left for keys in {str(path)!r}: creating keys fails when the disk is full",
            "make room, or move the directory to a larger disk",
        )
    elif disk.f_files and disk.f_favail < _FEW_FILES:
        yield Finding.warning(
            _SUBJECT,
            f"the file system of {str(path)!r} can take {disk.f_favail} more files, and each key is one",
            "remove files, or move the directory to another file system",
        )
