"""Who can get at the keys: what the server may do with the key directory, and what others may not do."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kes_core import KeyStoreError
from kes_core.names import is_valid_entry

__all__ = ["check_access", "is_key", "is_own_group"]

_GROUP: Final = stat.S_IRGRP | stat.S_IWGRP
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH
_ANYONE: Final = _GROUP | _OTHERS


def check_access(path: Path) -> bool:
    """Check that the server may use the key directory at `path`, and that others can't read or change the keys.

    Returns:
        Whether the server may write into the directory. Otherwise it can only serve the keys that are there, as in a
        secret that Kubernetes mounts.

    Raises:
        KeyStoreError: The server may not use it, or others can get at the keys.
        OSError: It can't be examined, or is not a directory.
    """
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    is_mounted_read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    _refuse_writers(path, status, is_mounted_read_only=is_mounted_read_only)
    if not os.access(path, os.R_OK | os.X_OK):
        raise KeyStoreError(f"the server may not read the key directory {str(path)!r}")
    may_write = os.access(path, os.W_OK)
    count = 0
    for key, mode in _modes(path, status):
        count += 1
        if mode:
            cure = f"chmod 0700 {path} and chmod 0600 its files"
            if is_mounted_read_only:
                cure += "; for a secret of Kubernetes set its defaultMode to 0440, and fsGroup"
            raise KeyStoreError(f"others can read or change the key {str(key)!r} (mode {mode:04o}): {cure}")
        if not may_write and not os.access(key, os.R_OK):
            raise KeyStoreError(f"the server may not read the key {str(key)!r}")
    if not may_write and count == 0:
        raise KeyStoreError(f"the server may not write into the key directory {str(path)!r}, and there is no key in it")
    return may_write


def _refuse_writers(path: Path, directory: os.stat_result, *, is_mounted_read_only: bool) -> None:
    """Refuse a directory that others can write into.

    A secret that Kubernetes mounts has the mode 1777. But nobody writes through a read-only mount, and because of the
    sticky bit others could not replace a key through another one.
    """
    mode = directory.st_mode
    if is_mounted_read_only and mode & stat.S_ISVTX:
        return
    if mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not is_own_group(directory)):
        raise KeyStoreError(
            f"others can write into the key directory {str(path)!r} (mode {stat.S_IMODE(mode):04o}): chmod 0700 {path}"
        )


def _modes(path: Path, directory: os.stat_result) -> Iterator[tuple[Path, int]]:
    """Yield each key with its mode if others than the server's user and groups can read or change it, else with 0.

    If the directory lets no others in, the modes of its files do not matter. It does not protect the target of a
    symbolic link.
    """
    lets_others_in = _exposed_bits(directory, directory) != 0
    with os.scandir(path) as entries:
        for entry in entries:
            if not is_key(entry):
                continue
            key = Path(entry.path)
            if not (lets_others_in or entry.is_symlink()):
                yield key, 0
                continue
            status = entry.stat()
            exposed = _ANYONE if entry.is_symlink() else _exposed_bits(directory, status)
            is_exposed = status.st_mode & (exposed & ~_GROUP if is_own_group(status) else exposed)
            yield key, stat.S_IMODE(status.st_mode) if is_exposed else 0


def is_key(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a key: a file, or a symbolic link to one, as in a secret that Kubernetes mounts."""
    try:
        return is_valid_entry(entry.name) and entry.is_file()
    except OSError:
        if entry.is_symlink():
            return False  # it leads in a circle, or where the server may not look
        raise


def is_own_group(status: os.stat_result) -> bool:
    """Tell whether a file belongs to one of this process's groups, as with `fsGroup` of Kubernetes."""
    return status.st_gid == os.getegid() or status.st_gid in os.getgroups()


def _exposed_bits(directory: os.stat_result, file: os.stat_result) -> int:
    """Return the bits of a file's mode that let in those who can reach it through its directory.

    The directory lets in everyone, or its group. For the file, members of that group are others if the file has another
    group.
    """
    if directory.st_mode & stat.S_IXOTH:
        return _ANYONE
    if not directory.st_mode & stat.S_IXGRP or is_own_group(directory):
        return 0
    return _GROUP if directory.st_gid == file.st_gid else _ANYONE
