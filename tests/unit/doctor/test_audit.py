"""The doctor finds each fault of the audit sinks that stops the server."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes_core.audit.log import AuditError, open_audit_log
from kes_core.config import Config
from kes_core.doctor.audit import examine_audit
from kes_core.doctor.examination import examine
from kes_core.findings import Finding
from tests.helpers.doctor import PLUGINS, as_nobody, config, finding_with, levels


def examined(settings: Config) -> list[Finding]:
    async def collect() -> list[Finding]:
        return [finding async for finding in examine_audit(settings, PLUGINS)]

    return asyncio.run(collect())


def look(directory: Path, **audit: Any) -> list[Finding]:
    """Return the findings; check that the doctor changes no files and has a cure for each error."""
    settings = config(directory, audit=audit)
    before = sorted(directory.rglob("*"))
    found = examined(settings)
    assert sorted(directory.rglob("*")) == before
    assert {finding.subject for finding in found} <= {"audit log"}
    assert all(finding.cure for finding in found if finding.level == "error")
    return found


def refused(directory: Path, **audit: Any) -> Finding:
    """Return the only finding, which is an error that keeps the server from starting."""
    (found,) = look(directory, **audit)
    assert found.level == "error"
    with pytest.raises(AuditError):
        asyncio.run(open_audit_log(config(directory, audit=audit), PLUGINS))
    return found


def test_nothing_to_look_at(tmp_path: Path) -> None:
    assert look(tmp_path) == []


@pytest.mark.parametrize("chain", ["on", "off"])
def test_file_that_can_be_written(tmp_path: Path, chain: str) -> None:
    path = tmp_path / "audit.log"
    file = {"path": str(path), "chain": chain}
    expected = [Finding.ok("audit log", f"'{path}' can be written")]
    assert look(tmp_path, file=file) == expected  # the file does not exist yet
    path.write_text("a line\n")
    path.with_name("audit.log.chain").write_text("")
    assert look(tmp_path, file=file) == expected
    assert path.read_text() == "a line\n"


@pytest.mark.parametrize("chain", ["on", "off"])
def test_directory_that_is_missing(tmp_path: Path, chain: str) -> None:
    found = refused(tmp_path, file={"path": str(tmp_path / "a log" / "audit.log"), "chain": chain})
    assert found.message == f"the directory '{tmp_path}/a log' does not exist: the server does not create it"
    assert found.cure == f"install -d -m 0700 -o <user of the server> '{tmp_path}/a log'"


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    found = refused(tmp_path, file={"path": str(tmp_path / "log" / "audit.log")})
    assert found.message == f"'{tmp_path}/log/audit.log' can't be opened: Not a directory"


@pytest.mark.parametrize("name", ["audit.log", "audit.log.chain"])
@pytest.mark.parametrize("leads", ["somewhere", "nowhere"])
def test_symbolic_link(tmp_path: Path, name: str, leads: str) -> None:
    (tmp_path / "somewhere").write_text("")
    (tmp_path / name).symlink_to(tmp_path / leads)
    found = refused(tmp_path, file={"path": str(tmp_path / "audit.log"), "chain": "on"})
    assert found.message == f"'{tmp_path}/{name}' is a symbolic link, which the server does not follow"


@pytest.mark.parametrize("name", ["audit.log", "audit.log.chain"])
def test_what_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    found = refused(tmp_path, file={"path": str(tmp_path / "audit.log"), "chain": "on"})
    assert found.message == f"'{tmp_path}/{name}' is not a regular file"


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit.log")
    assert (
        finding_with(look(tmp_path, file={"path": str(tmp_path / "audit.log")}), "is not a regular file").level
        == "error"
    )


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may list and none may write to. pytest's own directories are only for their owner."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o555)
        yield path
        path.chmod(0o700)


@pytest.mark.root
def test_directory_of_another_user(tmp_path: Path, public: Path) -> None:
    settings = config(tmp_path, audit={"file": {"path": str(public / "audit.log")}})
    with as_nobody():
        (found,) = examined(settings)
        with pytest.raises(AuditError):
            asyncio.run(open_audit_log(settings, PLUGINS))
    assert (found.level, found.message) == ("error", f"the directory '{public}' is not writable")
    assert found.cure == f"chown <user of the server> {public}, and run the doctor as that user"


@pytest.mark.root
@pytest.mark.parametrize("name", ["audit.log", "audit.log.chain"])
def test_file_of_another_user(tmp_path: Path, public: Path, name: str) -> None:
    public.chmod(0o755)
    for each, mode in (("audit.log", 0o666), ("audit.log.chain", 0o666), (name, 0o400)):
        (public / each).touch()
        (public / each).chmod(mode)
    settings = config(tmp_path, audit={"file": {"path": str(public / "audit.log"), "chain": "on"}})
    with as_nobody():
        (found,) = examined(settings)
        with pytest.raises(AuditError):
            asyncio.run(open_audit_log(settings, PLUGINS))
    assert (found.level, found.message) == ("error", f"'{public}/{name}' can't be opened: Permission denied")
    assert found.cure == f"chown <user of the server> {public}/{name}, and run the doctor as that user"


# syslog


def test_syslog_on_a_socket(tmp_path: Path) -> None:
    address = str(tmp_path / "log")
    found = refused(tmp_path, syslog={"address": address})
    assert found.message == f"syslog at '{address}' can't be reached: No such file or directory"
    assert "start a syslog service" in found.cure
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(address)
        assert look(tmp_path, syslog={"address": address}) == [
            Finding.ok("audit log", f"syslog at '{address}' can be reached")
        ]
        log.setblocking(False)
        with pytest.raises(BlockingIOError):  # the doctor sent nothing
            log.recv(1)
    assert "Connection refused" in refused(tmp_path, syslog={"address": address}).message


def test_syslog_over_tcp(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as log:
        address = f"tcp://127.0.0.1:{log.getsockname()[1]}"
        assert levels(look(tmp_path, syslog={"address": address})) == {"ok"}
    found = refused(tmp_path, syslog={"address": address})
    assert found.message.endswith("can't be reached: Connection refused")
    assert "firewall" in found.cure


def test_syslog_over_udp(tmp_path: Path) -> None:
    (found,) = look(tmp_path, syslog={"address": "udp://127.0.0.1:514"})
    assert found.level == "ok"
    assert "with UDP the doctor can't check that a server receives them" in found.message


def test_it_is_part_of_the_examination(tmp_path: Path) -> None:
    audit = {"file": {"path": str(tmp_path / "none" / "audit.log")}, "syslog": {"address": str(tmp_path / "nobody")}}
    settings = config(tmp_path, audit=audit)
    found = [
        finding
        for finding in asyncio.run(examine(settings, PLUGINS, tmp_path / "config.yml"))
        if finding.subject == "audit log"
    ]
    assert [finding.level for finding in found] == ["error", "error"]
