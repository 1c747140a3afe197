"""A PostgreSQL server for the tests, on a port of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))


class PostgreSQL:
    """One server; its data survive `stop` and `start`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password = secrets.token_hex(16)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        # PostgreSQL refuses to run as root; Debian's package brings a user for it.
        self.user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        password_file = directory / "password"
        password_file.write_text(self.password)
        for path in (directory, password_file):
            shutil.chown(path, self.user)
        command = ["initdb", "-D", str(directory / "data"), "-U", "kes", "-A", "scram-sha-256", "-E", "UTF8"]
        self._run([*command, "--locale", "C.UTF-8", f"--pwfile={password_file}"])

    @property
    def url(self) -> str:
        return f"postgresql://kes:{self.password}@127.0.0.1:{self.port}/postgres"

    def _run(self, command: list[str]) -> None:
        program = str(PROGRAMS[-1] / command[0])
        subprocess.run([program, *command[1:]], user=self.user, cwd="/", check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.directory}"
        log = str(self.directory / "log")
        self._run(["pg_ctl", "-D", str(self.directory / "data"), "-l", log, "-o", options, "-w", "start"])

    def stop(self) -> None:
        self._run(["pg_ctl", "-D", str(self.directory / "data"), "-m", "immediate", "-w", "stop"])


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    if not PROGRAMS:
        pytest.fail("these tests start a PostgreSQL server, and its programs are missing: apt install postgresql")
    directory = Path(tempfile.mkdtemp(prefix="kes-sql-"))
    server = PostgreSQL(directory)
    server.start()
    yield server
    pid = int((directory / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGQUIT)
    shutil.rmtree(directory, ignore_errors=True)
