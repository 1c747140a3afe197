"""Where audit records go: whether the server can write there. It does not start if it can't."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.audit.syslog import SyslogError, SyslogSink
from kes_core.findings import Finding

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.config.sections import AuditFileSettings, SyslogSettings

__all__ = ["examine_audit"]

_SUBJECT: Final = "audit log"


def examine_audit(config: Config) -> Iterator[Finding]:
    """Look at the file and the syslog that audit records are to go to. Nothing is made, and nothing is sent."""
    if config.audit.file is not None:
        yield from _file(config.audit.file)
    if config.audit.syslog is not None:
        yield _syslog(config.audit.syslog)


def _file(settings: AuditFileSettings) -> Iterator[Finding]:
    paths = [Path(settings.path), *([Path(f"{settings.path}.chain")] if settings.chain else [])]
    # Both may be kept from being made by the same directory.
    problems = list(dict.fromkeys(problem for path in paths if (problem := _problem(path)) is not None))
    yield from problems
    if not problems:
        yield Finding.ok(_SUBJECT, f"{settings.path!r} can be written")


def _problem(path: Path) -> Finding | None:
    """Return why the server could not open `path`, which it makes if it is missing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return _problem_of_directory(path.parent)
    except OSError as error:
        return _not_opened(path, error)
    if stat.S_ISLNK(mode):
        return Finding.error(
            _SUBJECT,
            f"{str(path)!r} is a symbolic link, which the server does not follow",
            "put the file itself in its place, or set another audit.file.path",
        )
    if not stat.S_ISREG(mode):
        return Finding.error(_SUBJECT, f"{str(path)!r} is no plain file", "set audit.file.path to a file")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        return _not_opened(path, error)
    return None


def _problem_of_directory(directory: Path) -> Finding | None:
    """Return why no file could be made there."""
    if not directory.exists():
        return Finding.error(
            _SUBJECT,
            f"the directory {str(directory)!r} does not exist: the server does not make it",
            f"install -d -m 0700 -o <user of the server> {shlex.quote(str(directory))}",
        )
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return Finding.error(
            _SUBJECT,
            f"no file can be made in the directory {str(directory)!r}",
            f"chown <user of the server> {shlex.quote(str(directory))}, and run the doctor as that user",
        )
    return None


def _not_opened(path: Path, error: OSError) -> Finding:
    cure = "set audit.file.path to a file that the user of the server may write"
    if isinstance(error, PermissionError):
        cure = f"chown <user of the server> {shlex.quote(str(path))}, and run the doctor as that user"
    return Finding.error(_SUBJECT, f"{str(path)!r} can't be opened: {error.strerror}", cure)


def _syslog(settings: SyslogSettings) -> Finding:
    address = settings.address
    try:
        SyslogSink(settings.target, settings.facility, stream=settings.is_stream).close()
    except SyslogError as error:
        if isinstance(settings.target, str):
            cure = "start a syslog service, or name another in audit.syslog.address; containers often have no /dev/log"
        else:
            cure = "check host, port and firewall, and whether the log server runs"
        return Finding.error(_SUBJECT, str(error), cure)
    if address.startswith("udp:"):
        return Finding.ok(_SUBJECT, f"syslog at {address!r} can be sent to; with UDP nobody tells whether it listens")
    return Finding.ok(_SUBJECT, f"syslog at {address!r} can be reached")
