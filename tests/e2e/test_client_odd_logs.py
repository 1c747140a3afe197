"""The streams of the logs, when a server answers as no real one does."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kes_core.client import (
    APIError,
    AsyncClient,
    Client,
    KESConnectionError,
    KESError,
)
from tests.helpers.certificates import make_server_certificate


@contextmanager
def answering(directory: Path, *parts: bytes, hold: bool = False) -> Iterator[str]:
    """Serve a log over TLS in exactly these parts; then hang up, or with `hold` stay silent."""
    key, cert = make_server_certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while not done.is_set():
                try:
                    raw, _ = listener.accept()
                except OSError:
                    return
                try:
                    with context.wrap_socket(raw, server_side=True) as connection:
                        connection.recv(65536)
                        for part in parts:
                            connection.sendall(part)
                        if hold:
                            done.wait(30)
                except OSError:  # the client has read enough
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(60)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        ([HEAD, b"x" * (2 << 20)], KESError, "a line of the log is longer than 1048576 bytes"),
        ([HEAD, b"x" * (2 << 20) + b"\n"], KESError, "a line of the log is longer than 1048576 bytes"),
        ([HEAD, b"nonsense\n"], APIError, "does not follow the protocol"),
        ([HEAD, b'{"message": "x"}\n'], APIError, "does not follow the protocol"),
        ([HEAD, b"[]\n"], APIError, "does not follow the protocol"),
        ([HEAD, b'\n\n{"time":'], KESConnectionError, "the server ended|broke"),
        ([b"HTTP/1.1 503 Busy\r\nContent-Length: 19\r\n\r\n", b'{"message": "full"}'], APIError, "^full$"),
        ([b"nonsense\r\n\r\n"], KESConnectionError, "the connection broke in the middle"),
    ],
    ids=["long", "long-line", "no-json", "other-event", "no-object", "half-a-line", "refused", "no-http"],
)
def test_malformed_logs(parts: list[bytes], kind: type[KESError], message: str, tmp_path: Path) -> None:
    with answering(tmp_path, *parts) as url:
        with Client(url, insecure=True) as kms, pytest.raises(kind, match=message):
            next(kms.audit_log())

        async def check() -> None:
            async with AsyncClient(url, insecure=True) as kms:
                with pytest.raises(kind, match=message):
                    await anext(kms.audit_log())

        asyncio.run(check())


def test_a_server_that_says_nothing_is_waited_for_like_any_request(tmp_path: Path) -> None:
    with (
        answering(tmp_path, hold=True) as url,
        Client(url, insecure=True, timeout=0.5) as kms,
        pytest.raises(KESConnectionError, match="timed out"),
    ):
        next(kms.audit_log())


def test_events_come_in_pieces(tmp_path: Path) -> None:
    line = b'{"message":"one"}\n{"message":"two"}\n{"message":"three"}\n'
    with (
        answering(tmp_path, HEAD, line[:5], line[5:40], line[40:], hold=True) as url,
        Client(url, insecure=True) as kms,
        kms.error_log() as events,
    ):
        assert [next(events).message for _ in range(3)] == ["one", "two", "three"]
