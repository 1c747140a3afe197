"""The unix socket on which the API server finds the plugin: where it may be, who may use it, and how it is replaced.

Whoever can put a socket of their own at this path gets the data encryption keys of the cluster, because the API server
sends them there to be encrypted. So nobody else may write into the directory.

The socket appears at its path only when its owner and mode are set: it is made in a directory that only the server can
enter, and then moved. Moving also replaces an older socket without a moment in which there is none.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import ClassVar, Final, NamedTuple

from kes_core import FrontendError

__all__ = ["Place", "PlacedSocket", "answers"]

_MAX_PATH: Final = 107
"""The longest path of a unix socket, in bytes (unix(7))."""
_PREFIX: Final = ".kes-"
_NEW: Final = "s"
_MAX_DIRECTORY: Final = _MAX_PATH - len(f"/{_PREFIX}12345678/{_NEW}")
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_PATIENCE: Final = 1.0
"""Seconds that a listener has to accept a connection. The kernel accepts it at once, unless very many wait."""


class Place(NamedTuple):
    """Where the socket is, and for whom."""

    path: Path
    mode: int
    owner: int
    """The number of the user, or -1 for that of the server. The same holds for `group`."""
    group: int

    @classmethod
    def find(cls, path: Path, mode: str, owner: str, group: str) -> Place:
        """Look up the accounts; an empty one is that of the server.

        Raises:
            FrontendError: There is no such account, or the path is too long.
        """
        if len(os.fsencode(path.parent)) > _MAX_DIRECTORY:
            raise FrontendError(f"the directory of the socket {str(path)!r} has more than {_MAX_DIRECTORY} bytes")
        return cls(path, int(mode, 8), _user(owner), _group(group))

    def check(self) -> None:
        """Check the directory of the socket, and what is at its path. Changes nothing.

        Raises:
            FrontendError: The socket can't be made there, or would not be safe there.
        """
        directory = self.path.parent
        try:
            _check_directory(directory)
            self._check_path()
        except OSError as error:
            raise self.failure(error) from None

    def _check_path(self) -> None:
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise FrontendError(f"{str(self.path)!r} is not a socket: remove it, or use another path")
        if status.st_uid not in {os.geteuid(), self.owner}:
            raise FrontendError(
                f"the socket {str(self.path)!r} belongs to another user: remove it, or use another path"
            )

    def make_directory(self) -> None:
        """Create the directory of the socket, if it is missing and the one above it is there.

        Raises:
            FrontendError: It can't be created.
        """
        directory = self.path.parent
        try:
            if not directory.exists() and directory.parent.is_dir():
                directory.mkdir(mode=0o700)
                os.chown(directory, -1, self.group)
                directory.chmod(0o700 if self.group < 0 else 0o750)
        except OSError as error:
            raise self.failure(error) from None

    def failure(self, error: OSError) -> FrontendError:
        """Return the error for operators that replaces one of the operating system."""
        return FrontendError(f"the socket {str(self.path)!r} can't be made: {os.strerror(error.errno or 0).lower()}")


class PlacedSocket:
    """A socket from its creation in a private directory to its removal."""

    _placed: ClassVar[set[int]] = set()
    """The inodes of the sockets of this process: a reload may replace one of them while it still serves."""

    def __init__(self, place: Place) -> None:
        """Make the private directory.

        Raises:
            OSError: It can't be made.
        """
        self._place = place
        self._private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place.path.parent))
        self._inode = 0
        self.path = self._private / _NEW
        """Where to listen."""

    @classmethod
    def is_foreign(cls, path: Path) -> bool:
        """Return whether another process listens at `path`."""
        try:
            return path.lstat().st_ino not in cls._placed and answers(path)
        except OSError:
            return False

    def move(self) -> None:
        """Set owner, group and mode of the socket that listens, and move it to its place.

        Raises:
            OSError: Not permitted, or not possible.
        """
        place = self._place
        if place.owner >= 0 or place.group >= 0:
            os.chown(self.path, place.owner, place.group)
        self.path.chmod(place.mode)
        self._inode = self.path.stat().st_ino
        self.path.rename(place.path)
        self._placed.add(self._inode)
        self.discard()

    def discard(self) -> None:
        """Remove the private directory."""
        shutil.rmtree(self._private, ignore_errors=True)

    def remove(self) -> None:
        """Remove the socket from its place, unless another one has replaced it."""
        self._placed.discard(self._inode)
        try:
            if self._inode and self._place.path.lstat().st_ino == self._inode:
                self._place.path.unlink()
        except OSError:
            pass  # somebody else removed it, or its directory


def answers(path: Path) -> bool:
    """Return whether a process listens on a socket. False also if it can't be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(os.fsencode(path))
        except TimeoutError:
            return True
        except OSError:
            return False
    return True


def _check_directory(directory: Path) -> None:
    if not directory.exists():
        raise FrontendError(f"the directory {str(directory)!r} of the socket does not exist: create it")
    status = directory.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise FrontendError(f"{str(directory)!r} is not a directory, so it can't hold the socket")
    if status.st_uid not in {0, os.geteuid()}:
        raise FrontendError(f"the directory {str(directory)!r} of the socket belongs to another user")
    if status.st_mode & _OTHERS_WRITE:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise FrontendError(
            f"others can replace the socket in {str(directory)!r} (mode {mode}): "
            f"chmod go-w {directory}, or use a directory below it, which the server creates"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        raise FrontendError(f"the server may not write into the directory {str(directory)!r} of the socket")


def _user(name: str) -> int:
    if not name:
        return -1
    try:
        return int(name) if name.isdecimal() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise FrontendError(f"the owner of the socket does not exist: there is no user {name!r}") from None


def _group(name: str) -> int:
    if not name:
        return -1
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise FrontendError(f"the group of the socket does not exist: there is no group {name!r}") from None
