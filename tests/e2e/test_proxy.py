"""TLS proxies: which connections may speak for other clients."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.server import Server, start_server

HEADER = "X-Tls-Client-Cert"


class Setup:
    def __init__(self, server: Server, proxy: Credentials, user: Credentials, other: Credentials) -> None:
        self.server = server
        self.proxy = proxy
        self.user = user
        self.other = other

    def ask(self, sender: Credentials, headers: list[tuple[str, str]], path: str = "/v1/status") -> httpx.Response:
        with self.server.client(sender) as client:
            return client.get(path, headers=headers)


def escaped(credentials: Credentials) -> str:
    return quote(credentials.cert.read_text())


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    directory = tmp_path_factory.mktemp("proxy")
    proxy, user, other = (make_credentials(directory, name) for name in ("proxy", "user", "other"))
    key, cert = directory / "server.key", directory / "server.crt"
    make_credentials(directory, "server")
    overrides = {
        "tls": {"key": str(key), "cert": str(cert), "proxy": {"identities": [proxy.identity]}},
        "policy": {"users": {"allow": ["/v1/status"], "identities": [user.identity]}},
        "log": {"audit": "on"},
    }
    server = start_server(directory, overrides)
    yield Setup(server, proxy, user, other)
    assert server.stop() == 0


def test_proxy_speaks_for_a_client(setup: Setup) -> None:
    headers = [(HEADER, escaped(setup.user)), ("X-Forwarded-For", "10.1.2.3, 10.9.9.9")]
    assert setup.ask(setup.proxy, headers).status_code == 200
    record = setup.server.next_audit_record()
    assert record["request"]["identity"] == setup.user.identity
    assert record["request"]["ip"] == "10.1.2.3"
    assert setup.ask(setup.proxy, [(HEADER, escaped(setup.other))]).status_code == 403
    assert setup.server.next_audit_record()["request"]["ip"] == "127.0.0.1"


def test_forwarded_text_that_is_not_an_address_is_ignored(setup: Setup) -> None:
    for forged in ('1.2.3.4\\n{"x":1}', "localhost", "1.2.3", ""):
        headers = [(HEADER, escaped(setup.user)), ("X-Forwarded-For", forged)]
        assert setup.ask(setup.proxy, headers).status_code == 200
        assert setup.server.next_audit_record()["request"]["ip"] == "127.0.0.1"


def test_header_of_anybody_else_is_not_honoured(setup: Setup) -> None:
    """The header does not let a stranger in, and does not replace the sender's own identity."""
    for headers in ([(HEADER, escaped(setup.user))], [(HEADER.lower(), escaped(setup.server.admin))]):
        assert setup.ask(setup.other, headers).status_code == 403
        assert setup.server.next_audit_record()["request"]["identity"] == setup.other.identity
    assert setup.ask(setup.user, [(HEADER, escaped(setup.other))]).status_code == 200
    assert setup.server.next_audit_record()["request"]["identity"] == setup.user.identity
    own = setup.ask(setup.user, [(HEADER, escaped(setup.server.admin))], "/v1/identity/self/describe").json()
    setup.server.next_audit_record()
    assert (own["identity"], "admin" in own) == (setup.user.identity, False)


def test_proxy_has_to_say_properly_for_whom_it_speaks(setup: Setup) -> None:
    good = escaped(setup.user)
    for headers, message in (
        ([], "no client certificate is present"),
        ([(HEADER, good), (HEADER, good)], "too many client certificates are present"),
        ([(HEADER, "nonsense")], "invalid client certificate"),
        ([(HEADER, "")], "invalid client certificate"),
        ([(HEADER, good[:-40])], "invalid client certificate"),
        ([(HEADER, quote(setup.user.key.read_text()))], "invalid client certificate"),
        ([(HEADER, good + good.replace("BEGIN", "BEGIN"))], "tls: received more than one client certificate"),
    ):
        response = setup.ask(setup.proxy, headers)
        assert (response.status_code, response.json()) == (400, {"message": message})
        setup.server.next_audit_record()


def test_forwarded_certificates_are_verified_where_certificates_are(setup: Setup) -> None:
    directory = setup.server.config_path.parent / "verified"
    directory.mkdir()
    make_credentials(directory, "server")
    authorities = directory / "cas.pem"
    authorities.write_bytes(setup.proxy.cert.read_bytes() + setup.user.cert.read_bytes())
    tls = {
        "key": str(directory / "server.key"),
        "cert": str(directory / "server.crt"),
        "auth": "on",
        "ca": str(authorities),
        "proxy": {"identities": [setup.proxy.identity]},
    }
    allowed = {"allow": ["/v1/*"], "identities": [setup.user.identity, setup.other.identity]}
    server = start_server(directory, {"tls": tls, "policy": {"users": allowed}})
    try:
        verified = Setup(server, setup.proxy, setup.user, setup.other)
        assert verified.ask(setup.proxy, [(HEADER, escaped(setup.user))]).status_code == 200
        refused = verified.ask(setup.proxy, [(HEADER, escaped(setup.other))])
        assert (refused.status_code, refused.json()) == (403, {"message": ""})
    finally:
        assert server.stop() == 0
