"""A real nginx in front of the server, with the example's configuration."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from kes_core.client import Client, NotAllowedError
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.command import run_kes
from tests.helpers.programs import free_port, program
from tests.helpers.server import Server, send_raw, start_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "nginx" / "kes.conf"
FORGED_ADDRESS = "203.0.113.9"


class Site:
    """A server behind nginx, and clients of both."""

    def __init__(self, directory: Path) -> None:
        self.user, self.other, proxy = (make_credentials(directory, name) for name in ("user", "other", "proxy"))
        run_kes("identity", "new", "--key", directory / "server.key", "--cert", directory / "server.crt", "localhost")
        tls = {"key": str(directory / "server.key"), "cert": str(directory / "server.crt")}
        self.server = start_server(
            directory,
            {
                "tls": {**tls, "proxy": {"identities": [proxy.identity]}},
                "policy": {"users": {"allow": ["/v1/key/*", "/v1/log/*"], "identities": [self.user.identity]}},
                "keys": [{"name": "k"}],
                "log": {"audit": "on"},
            },
        )
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        text = EXAMPLE.read_text()
        for old, new in (
            ("server 127.0.0.1:7373;", f"server 127.0.0.1:{self.server.port};"),
            ("listen 7443 ", f"listen 127.0.0.1:{self.port} "),
            ("/etc/nginx/kes/public.crt", f"{directory}/server.crt"),
            ("/etc/nginx/kes/private.key", f"{directory}/server.key"),
            ("/etc/nginx/kes/kes-public.crt", f"{directory}/server.crt"),
            ("/etc/nginx/kes/", f"{directory}/"),
        ):
            assert old in text
            text = text.replace(old, new)
        (directory / "kes.conf").write_text(text)
        places = "".join(f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi"))
        places += "".join(f"{name}_temp_path {directory}/{name};" for name in ("uwsgi", "scgi"))
        (directory / "nginx.conf").write_text(
            f"daemon off; pid {directory}/nginx.pid; error_log stderr notice; events {{}}\n"
            f"http {{ access_log off; {places} include {directory}/kes.conf; }}\n"
        )
        self.ca = directory / "server.crt"
        self.nginx = subprocess.Popen(
            [program("nginx", "nginx"), "-e", "stderr", "-p", directory, "-c", directory / "nginx.conf"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.nginx.stderr is not None
        said = ""
        for line in self.nginx.stderr:
            said += line
            if "start worker process" in line:  # by then nginx listens
                break
        else:
            raise AssertionError(said)
        self.reading = threading.Thread(target=self.nginx.stderr.read)  # a full pipe would block nginx
        self.reading.start()

    def client(self, credentials: Credentials | None, url: str = "", *, http2: bool = False) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.ca)
        if credentials is not None:
            context.load_cert_chain(credentials.cert, credentials.key)
        return httpx.Client(base_url=url or self.url, verify=context, http2=http2, trust_env=False)

    def close(self) -> None:
        self.nginx.terminate()
        self.nginx.wait(timeout=60)
        self.reading.join()
        if self.nginx.stderr is not None:
            self.nginx.stderr.close()
        assert self.server.stop() == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("nginx"))
    yield site
    site.close()


def audited(server: Server) -> tuple[str, str, int]:
    record = server.next_audit_record()
    return record["request"]["identity"], record["request"]["ip"], record["response"]["code"]


@pytest.mark.parametrize("http2", [False, True])
def test_clients_keep_their_identities(site: Site, http2: bool) -> None:
    for credentials, code in ((site.user, 200), (site.other, 403), (site.server.admin, 200)):
        with site.client(credentials, http2=http2) as client:
            answer = client.put("/v1/key/generate/k", json={})
            assert answer.status_code == code
            assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert audited(site.server) == (credentials.identity, "127.0.0.1", code)


def test_the_projects_own_client(site: Site) -> None:
    with Client(site.url, key_file=site.user.key, cert_file=site.user.cert, ca=site.ca) as client:
        key = client.generate_data_key("k", b"context")
        assert client.decrypt("k", key.ciphertext, b"context") == key.plaintext
        with pytest.raises(NotAllowedError):
            client.status()
    assert [audited(site.server)[2] for _ in range(3)] == [200, 200, 403]


@pytest.mark.parametrize("name", ["X-Tls-Client-Cert", "x-tls-client-cert", "X_Tls_Client_Cert", "X-TLS-Client-Cert"])
def test_header_that_a_client_sends_itself_is_ignored(site: Site, name: str) -> None:
    """A forged header works neither through the proxy nor past it, and never replaces the client's own certificate."""
    forged = quote(site.server.admin.cert.read_text())
    headers = {name: forged, "X-Forwarded-For": FORGED_ADDRESS}
    for url in (site.url, f"https://localhost:{site.server.port}"):
        with site.client(site.other, url) as client:
            answer = client.get("/v1/status", headers=headers)
        assert answer.status_code == 403
        assert audited(site.server) == (site.other.identity, "127.0.0.1", 403)
    with site.client(None) as client:
        answer = client.get("/v1/status", headers=headers)
    assert (answer.status_code, answer.json()) == (400, {"message": "no client certificate is present"})
    assert audited(site.server) == ("", "127.0.0.1", 400)


def test_paths_reach_the_policies_as_they_were_sent(site: Site) -> None:
    """If the proxy normalised paths, the server would authorize another request than the client sent."""
    for target in ("/v1/key/create/../../status", "/v1/key//generate/k", "/v1/key/create/%2e%2e%2fx"):
        with (
            site.client(site.other) as through,
            site.client(site.other, f"https://localhost:{site.server.port}") as past,
        ):
            answers = [send_raw(client, "PUT", target) for client in (through, past)]
        assert len({(answer.status_code, answer.headers.get("location"), answer.text) for answer in answers}) == 1
        first, second = (site.server.next_audit_record() for _ in answers)
        assert first["request"]["path"] == second["request"]["path"]


def test_events_come_through_at_once(site: Site) -> None:
    with site.client(site.user) as client, client.stream("GET", "/v1/log/audit", timeout=20) as stream:
        assert audited(site.server)[2] == 200
        with site.client(site.user) as another:
            another.put("/v1/key/generate/k")
        event = json.loads(next(stream.iter_lines()))
    assert event["request"]["path"] == "/v1/key/generate/k"
    assert event["request"]["identity"] == site.user.identity
    audited(site.server)
