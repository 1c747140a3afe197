"""The client does not retry after a permanent TLS failure."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kes_core.client import Client, KESConnectionError
from kes_core.identity import APIKey
from tests.helpers.certificates import make_certificate, make_server_certificate, write_pair


@contextmanager
def endpoint(cert: Path, key: Path, *, breaks: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Yield an address and the list of its TLS handshakes. With `breaks`, each connection ends before its handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    handshakes: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection = listening.accept()[0]
                except OSError:
                    return
                with connection:
                    handshakes.append("begun")
                    if not breaks:
                        try:
                            context.wrap_socket(connection, server_side=True).close()
                        except OSError as error:
                            handshakes[-1] = type(error).__name__

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", handshakes
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("servers", [1, 2])
def test_certificate_that_is_not_trusted_is_seen_once(tmp_path: Path, servers: int) -> None:
    key, cert = make_server_certificate(tmp_path)
    with ExitStack() as stack:
        found = [stack.enter_context(endpoint(cert, key)) for _ in range(servers)]
        kms = stack.enter_context(Client([address for address, _ in found], api_key=APIKey.generate()))
        with pytest.raises(KESConnectionError) as caught:
            kms.version()
    assert str(caught.value).count("self-signed, trust it") == 1
    assert [len(handshakes) for _, handshakes in found] == [1] * servers


@pytest.mark.parametrize(
    ("faults", "cure"),
    [
        ({"names": ["kes.example.com"]}, "connect by a name in the server's certificate"),
        ({"begins": -9, "days": -1}, "the server needs a new certificate, or a clock is wrong"),
    ],
    ids=["other name", "expired"],
)
def test_error_says_once_what_to_do(tmp_path: Path, faults: dict[str, Any], cure: str) -> None:
    """Trusting the certificate would not help here, so the error does not propose it."""
    files = write_pair(tmp_path, make_certificate("kes", **faults))
    with (
        endpoint(Path(files["cert"]), Path(files["key"])) as (address, _handshakes),
        Client(address, api_key=APIKey.generate(), ca=files["cert"]) as kms,
        pytest.raises(KESConnectionError) as caught,
    ):
        kms.version()
    assert str(caught.value).count("; ") == 1
    assert str(caught.value).partition("; ")[2].startswith(cure)


def test_connection_that_breaks_is_tried_again(tmp_path: Path) -> None:
    key, cert = make_server_certificate(tmp_path)
    with (
        endpoint(cert, key, breaks=True) as (address, handshakes),
        Client(address, api_key=APIKey.generate()) as kms,
        pytest.raises(KESConnectionError),
    ):
        kms.version()
    assert len(handshakes) == 3
