"""A real server in another process, and raw TLS connections to it."""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

from tests.helpers.certificates import Credentials, make_credentials, make_server_certificate

RUNTIME = "KES_TEST_RUNTIME"
"""The environment variable with the runtime of the servers (`pytest --runtime`)."""
START_TIMEOUT = 120.0
"""Seconds. A start takes less than one, but many times that on a busy machine."""


def is_native() -> bool:
    """Return whether the tests are about the native runtime."""
    return os.environ.get(RUNTIME) == "native"


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen[str]
    host: str
    port: int
    config_path: Path
    admin: Credentials
    errors: list[str] = field(default_factory=list)
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)
    audit: queue.Queue[str] = field(default_factory=queue.Queue)

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    def wait_for_log(self, text: str, timeout: float = START_TIMEOUT) -> str:
        """Return the next line of standard error that contains `text`.

        Raises:
            queue.Empty: The server logged no such line in time, or ended.
        """
        while (line := self._lines.get(timeout=timeout)) is not None:
            if text in line:
                return line
        raise queue.Empty

    def next_audit_record(self, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.audit.get(timeout=timeout))
        return record

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """Stop the process as an operator would and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=START_TIMEOUT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def ssl_context(self, credentials: Credentials | None) -> ssl.SSLContext:
        """Return the TLS settings of a client. They don't verify the server's certificate, which is self-signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if credentials is not None:
            context.load_cert_chain(credentials.cert, credentials.key)
        return context

    def client(self, credentials: Credentials | None = None, *, http2: bool = True, **options: Any) -> httpx.Client:
        """Return an HTTP client with these credentials, by default the admin's."""
        context = self.ssl_context(credentials if credentials is not None else self.admin)
        return httpx.Client(base_url=self.url, verify=context, http2=http2, timeout=30.0, **options)

    @contextmanager
    def connection(
        self, credentials: Credentials | None = None, *, alpn: Sequence[str] = ("http/1.1",), timeout: float = 30.0
    ) -> Iterator[ssl.SSLSocket]:
        """Open a TLS connection, to send what no HTTP client would send."""
        context = self.ssl_context(credentials if credentials is not None else self.admin)
        context.set_alpn_protocols(list(alpn))
        with (
            socket.create_connection((self.host, self.port), timeout=timeout) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            yield connection


def send_raw(client: httpx.Client, method: str, target: str, **options: Any) -> httpx.Response:
    """Send a request with exactly this target: httpx normalises paths, but an attacker does not."""
    return client.request(method, "/", extensions={"target": target.encode()}, **options)


def write_config(directory: Path, admin: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Write a configuration for a server with the in-memory store on a free port."""
    key, cert = directory / "server.key", directory / "server.crt"
    if not key.exists():
        make_server_certificate(directory)
    config: dict[str, Any] = {
        "address": "127.0.0.1:0",
        "admin": {"identity": admin},
        "tls": {"key": str(key), "cert": str(cert)},
        "keystore": {"memory": {}},
    }
    config.update(overrides or {})
    path = directory / "config.yml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def start_server(
    directory: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    admin: Credentials | None = None,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    limit_files: int | None = None,
    python: Sequence[str] = ("-m", "kes_core.cli"),
    pass_fds: Sequence[int] = (),
) -> Server:
    """Start `kes server` and wait until it answers. The caller stops it. `python` has the arguments of Python."""
    admin = admin if admin is not None else make_credentials(directory, "admin")
    path = write_config(directory, admin.identity, overrides)
    if RUNTIME in os.environ:
        arguments = ("--runtime", os.environ[RUNTIME], *arguments)
    process = subprocess.Popen(
        [sys.executable, *python, "server", "--config", str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd=directory,
        pass_fds=pass_fds,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit_files, limit_files)))  # noqa: PLW1509 # in a test without threads that hold locks
        if limit_files is not None
        else None,
    )
    server = Server(process, "127.0.0.1", 0, path, admin)
    threading.Thread(target=_collect_log, args=(server,), daemon=True).start()
    threading.Thread(target=_collect, args=(process.stdout, server.audit, []), daemon=True).start()
    try:
        line = server.wait_for_log("listening on https://")
    except queue.Empty:
        server.kill()
        raise AssertionError("the server did not start:\n" + "\n".join(server.errors)) from None
    server.port = int(json.loads(line)["message"].rpartition(":")[2])
    return server


def _collect_log(server: Server) -> None:
    assert server.process.stderr is not None
    with server.process.stderr as stream:
        for line in stream:
            server.errors.append(line.rstrip("\n"))
            server._lines.put(line.rstrip("\n"))
    server._lines.put(None)


def _collect(stream: Any, lines: queue.Queue[str], all_lines: list[str]) -> None:
    with stream:
        for line in stream:
            all_lines.append(line.rstrip("\n"))
            lines.put(line.rstrip("\n"))


class Receiver(Protocol):
    """The part of a connection that reading an answer needs."""

    def recv(self, size: int, /) -> bytes:
        """Return at least one byte; nothing if the other side closed the connection."""


def read_response(connection: Receiver) -> tuple[int, dict[str, str], bytes]:
    """Read one HTTP/1.1 response with a content length: status, headers in lower case, body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError(f"closed after {data!r}")
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError("closed inside the body")
        body += chunk
    return int(status_line.split()[1]), headers, body


def resident_kib(server: Server) -> int:
    """Return the resident memory of the server's process, in KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def change_config(server: Server, changes: dict[str, Any]) -> None:
    config = yaml.safe_load(server.config_path.read_text())
    server.config_path.write_text(yaml.safe_dump({**config, **changes}))


def reload(server: Server) -> None:
    server.signal(signal.SIGHUP)
    server.wait_for_log("the configuration is reloaded")


def start_failing(directory: Path, overrides: Any = None, *arguments: str) -> tuple[int, str]:
    """Try to start a server that can't start; return its exit code and standard error."""
    config = write_config(directory, "disabled", overrides)
    command = [sys.executable, "-m", "kes_core.cli", "server", "--config", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT, check=False, cwd=directory)
    assert done.stdout == ""
    return done.returncode, done.stderr
