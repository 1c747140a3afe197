"""What `kes doctor` says of the audit sinks for a file and for syslog: whether the server can write to them."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kes_core.audit.syslog import SyslogError, SyslogSink
from kes_core.findings import Finding

if TYPE_CHECKING:
    from kes_core.config.sections import AuditFileSettings, SyslogSettings
    from kes_core.hookspecs import PluginContext

__all__ = ["diagnose_file", "diagnose_syslog"]

_SUBJECT: Final = "audit log"


async def diagnose_file(settings: AuditFileSettings, _context: PluginContext) -> Sequence[Finding]:
    """Check the file for audit records without creating it."""
    return list(_check_file(settings))


async def diagnose_syslog(settings: SyslogSettings, _context: PluginContext) -> Sequence[Finding]:
    """Check that syslog can be reached, without sending a record."""
    return [await asyncio.to_thread(_check_syslog, settings)]


def _check_file(settings: AuditFileSettings) -> Iterator[Finding]:
    paths = [Path(settings.path), *([Path(f"{settings.path}.chain")] if settings.chain else [])]
    # Both paths may have the same problem, in their directory: report it once.
    problems = list(dict.fromkeys(problem for path in paths if (problem := _path_problem(path)) is not None))
    yield from problems
    if not problems:
        yield Finding.ok(_SUBJECT, f"{settings.path!r} can be written")


def _path_problem(path: Path) -> Finding | None:
    """Return why the server can't open `path`, or create it if it is missing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return _directory_problem(path.parent)
    except OSError as error:
        return _open_error(path, error)
    if stat.S_ISLNK(mode):
        return Finding.error(
            _SUBJECT,
            f"{str(path)!r} is a symbolic link, which the server does not follow",
            "put the file itself in its place, or set another audit.file.path",
        )
    if not stat.S_ISREG(mode):
        return Finding.error(_SUBJECT, f"{str(path)!r} is not a regular file", "set audit.file.path to a regular file")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW))
    except OSError as error:
        return _open_error(path, error)
    return None


def _directory_problem(directory: Path) -> Finding | None:
    """Return why the server can't create files in `directory`."""
    if not directory.exists():
        return Finding.error(
            _SUBJECT,
            f"the directory {str(directory)!r} does not exist: the server does not create it",
            f"install -d -m 0700 -o <user of the server> {shlex.quote(str(directory))}",
        )
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return Finding.error(
            _SUBJECT,
            f"the directory {str(directory)!r} is not writable",
            f"chown <user of the server> {shlex.quote(str(directory))}, and run the doctor as that user",
        )
    return None


def _open_error(path: Path, error: OSError) -> Finding:
    cure = "set audit.file.path to a file that the user of the server may write"
    if isinstance(error, PermissionError):
        cure = f"chown <user of the server> {shlex.quote(str(path))}, and run the doctor as that user"
    return Finding.error(_SUBJECT, f"{str(path)!r} can't be opened: {error.strerror}", cure)


def _check_syslog(settings: SyslogSettings) -> Finding:
    address = settings.address
    try:
        SyslogSink(settings.target, settings.facility, stream=settings.is_stream).finish()
    except SyslogError as error:
        if isinstance(settings.target, str):
            cure = "start a syslog service, or name another in audit.syslog.address; containers often have no /dev/log"
        else:
            cure = "check host, port and firewall, and that the log server runs"
        return Finding.error(_SUBJECT, str(error), cure)
    if address.startswith("udp:"):
        return Finding.ok(
            _SUBJECT,
            f"syslog at {address!r}: records can be sent; with UDP the doctor can't check that a server receives them",
        )
    return Finding.ok(_SUBJECT, f"syslog at {address!r} can be reached")
