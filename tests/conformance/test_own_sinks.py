"""The audit sinks of the core keep the contract."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kes_core import AuditSink
from kes_core.audit.plugin import kes_audit_sinks
from kes_core.testing import AuditSinkContract

KINDS = {kind.name: kind for kind in kes_audit_sinks()}


async def connect(name: str, suite: AuditSinkContract, **section: Any) -> AuditSink:
    kind = KINDS[name]
    return await kind.connect(kind.config.model_validate(section), suite.context)


class TestFileSink(AuditSinkContract):
    async def make_sink(self) -> AuditSink:
        self.directory = self.tmp_path / "logs"
        self.directory.mkdir()
        return await connect("file", self, path=str(self.directory / "audit.log"))

    async def delivered(self) -> Sequence[Mapping[str, Any]]:
        file = self.directory / "audit.log"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @contextlib.asynccontextmanager
    async def make_unreachable(self) -> AsyncIterator[None]:
        """Move the directory away: the sink opens a rotated file again, and can't."""
        away = self.directory.with_name("away")
        self.directory.rename(away)
        yield
        away.rename(self.directory)


class TestSyslogSink(AuditSinkContract):
    deviations: ClassVar[Mapping[str, str]] = {
        "odd_records_are_delivered": "syslog limits the size of a message; the path of a longer record is cut"
    }

    delivery_time = 1.0

    @pytest.fixture(autouse=True)
    def _receiver(self) -> Iterator[None]:
        self.records: list[Mapping[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
            self.address = str(Path(folder) / "log")
            receiver.bind(self.address)
            thread = threading.Thread(target=self.receive, args=(receiver,))
            thread.start()
            yield
            receiver.shutdown(socket.SHUT_RDWR)
            thread.join()

    def receive(self, receiver: socket.socket) -> None:
        while data := receiver.recv(65536):
            self.records.append(json.loads(data.partition(b": ")[2]))

    async def make_sink(self) -> AuditSink:
        return await connect("syslog", self, address=self.address)

    async def delivered(self) -> Sequence[Mapping[str, Any]]:
        return self.records
