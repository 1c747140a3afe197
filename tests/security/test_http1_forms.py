"""Request targets that are not paths, handled as in Go's HTTP server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.certificates import make_credentials
from tests.helpers.server import Server, read_response


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET https://localhost/version", 200),
        (b"GET HTTPS://localhost:7373/version?a=b", 200),
        (b"GET https://localhost", 404),
        (b"GET https://localhost/nope", 404),
        (b"PUT https://localhost/v1/key/create/absolute", 200),
        (b"OPTIONS *", 200),
        (b"CONNECT localhost:443", 404),
    ],
)
def test_request_target(server: Server, line: bytes, status: int) -> None:
    with server.connection() as connection:
        for _ in range(1 if line.startswith(b"PUT") else 2):
            connection.sendall(line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer, headers, body = read_response(connection)
            assert answer == status
            if line == b"OPTIONS *":
                assert (headers["content-length"], body) == ("0", b"")


def test_absolute_form_is_held_against_the_policies(server: Server, tmp_path: Path) -> None:
    """The server authorizes the path that it executes, in any form of the target."""
    with server.connection(make_credentials(tmp_path)) as connection:
        connection.sendall(b"GET https://localhost/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_response(connection)[0] == 403
