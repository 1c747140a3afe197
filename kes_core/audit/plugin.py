"""The audit sinks of the core, as a plugin: a file and syslog.

`audit.file` and `audit.syslog` of the configuration select them, and so do `audit_sinks.file` and `audit_sinks.syslog`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from kes_core.audit.diagnosis import diagnose_file, diagnose_syslog
from kes_core.audit.file import AuditFileError, FileSink
from kes_core.audit.syslog import SyslogError, SyslogSink
from kes_core.config.sections import AuditFileSettings, SyslogSettings
from kes_core.errors import BackendError
from kes_core.hookspecs import AuditSink, AuditSinkType, PluginContext, hookimpl

__all__ = ["kes_audit_sinks"]

kes_hookspec_version = 1


async def _connect_file(settings: AuditFileSettings, _context: PluginContext) -> AuditSink:
    key = settings.key.get().encode("utf-8") if settings.key is not None else b""
    try:
        return await asyncio.to_thread(FileSink, Path(settings.path), chain=settings.chain, key=key)
    except AuditFileError as error:
        raise BackendError(str(error)) from None


async def _connect_syslog(settings: SyslogSettings, _context: PluginContext) -> AuditSink:
    try:
        # Beside the loop: a log host that does not answer must not hold up requests.
        return await asyncio.to_thread(SyslogSink, settings.target, settings.facility, stream=settings.is_stream)
    except SyslogError as error:
        raise BackendError(str(error)) from None


@hookimpl
def kes_audit_sinks() -> Sequence[AuditSinkType]:
    """Return the kinds of audit sink of the core."""
    return [
        AuditSinkType("file", AuditFileSettings, _connect_file, diagnose=diagnose_file),
        AuditSinkType("syslog", SyslogSettings, _connect_syslog, diagnose=diagnose_syslog),
    ]
