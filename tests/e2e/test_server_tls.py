"""The server's TLS: its certificate and key, those of clients, and versions."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import httpx
import pytest
import trustme

from tests.helpers.certificates import Credentials, make_credentials, make_server_certificate
from tests.helpers.command import run_kes
from tests.helpers.programs import program
from tests.helpers.server import Server, read_response, start_failing

RunServer = Callable[..., Server]


def test_reload_reads_the_certificate_again(run_server: RunServer, tmp_path: Path) -> None:
    server = run_server()

    def certificate() -> bytes | None:
        with server.connection() as connection:
            return connection.getpeercert(binary_form=True)

    before = certificate()
    make_credentials(tmp_path, "server")
    server.signal(signal.SIGHUP)
    server.wait_for_log("the configuration is reloaded")
    after = certificate()
    assert before != after
    (tmp_path / "server.crt").write_text("broken")
    server.signal(signal.SIGHUP)
    assert "contains no valid PEM certificate" in server.wait_for_log("not reloaded")
    assert certificate() == after


def test_certificate_is_read_again_by_itself(run_server: RunServer, tmp_path: Path) -> None:
    """The server reads its certificate again every 15 minutes; here, every 0.2 seconds."""
    hurried = "import kes_core.server.server as s, kes_core.cli as c; s.CERTIFICATE_INTERVAL = 0.2; c.main()"
    server = run_server(python=("-c", hurried))

    def served() -> str:
        return ssl.get_server_certificate((server.host, server.port))

    before = served()
    (tmp_path / "server.crt").write_text("in the middle of being written")
    line = json.loads(server.wait_for_log("the certificate is not reloaded, the old one stays in use"))
    assert "contains no valid PEM certificate" in line["message"]
    assert served() == before
    make_credentials(tmp_path, "server")
    while served() == before:
        pass
    assert served() == ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert((tmp_path / "server.crt").read_text()))


def test_encrypted_private_key(run_server: RunServer, tmp_path: Path) -> None:
    new = ["identity", "new", "--key", "enc.key", "--cert", "enc.crt", "--encrypt", "localhost"]
    environment = {**os.environ, "KES_PRIVATE_KEY_PASSWORD": "correct horse"}
    subprocess.run(
        [sys.executable, "-m", "kes_core.cli", *new],
        check=True,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    tls = {"key": str(tmp_path / "enc.key"), "cert": str(tmp_path / "enc.crt")}
    assert "is encrypted: set tls.password" in start_failing(tmp_path, {"tls": tls})[1]
    code, text = start_failing(tmp_path, {"tls": {**tls, "password": "wrong"}})
    assert (code, "tls.password is wrong" in text, "wrong'" in text) == (1, True, False)
    server = run_server({"tls": {**tls, "password": "${TLS_PASSWORD}"}}, environment={"TLS_PASSWORD": "correct horse"})
    with server.client() as client:
        assert client.get("/version").status_code == 200


def test_verified_client_certificates(run_server: RunServer, tmp_path: Path) -> None:
    """`tls.auth: on` with a CA file or directory lets in only clients with a certificate of that CA."""
    known, stranger = make_credentials(tmp_path, "known"), make_credentials(tmp_path, "unknown")
    authorities = tmp_path / "cas"
    authorities.mkdir()
    (authorities / "known.pem").write_bytes(known.cert.read_bytes())
    for ca in (known.cert, authorities):
        key, cert = str(tmp_path / "server.key"), str(tmp_path / "server.crt")
        make_credentials(tmp_path, "server")
        tls = {"key": key, "cert": cert, "auth": "on", "ca": str(ca)}
        server = run_server({"tls": tls}, admin=known)
        with server.client(known) as client:
            assert client.get("/v1/status").status_code == 200
        with pytest.raises(OSError, match=r"(?i)alert|eof"):
            ask_for_version(server, stranger)
        server.stop()


def test_client_certificate_of_a_ca_by_way_of_another(run_server: RunServer, tmp_path: Path) -> None:
    """`tls.auth: on` with the CAs of an organization: the root is in `tls.ca`, and the client sends the rest."""
    root = trustme.CA()
    root.cert_pem.write_to_path(tmp_path / "root.pem")
    issued = root.create_child_ca().issue_cert(common_name="app", key_type=trustme.KeyType.ECDSA)
    issued.private_key_pem.write_to_path(tmp_path / "app.key")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "app.crt", append=True)
    make_server_certificate(tmp_path)
    tls = {"key": "server.key", "cert": "server.crt", "auth": "on", "ca": "root.pem"}
    identity = run_kes("identity", "of", str(tmp_path / "app.crt")).stdout.strip()
    allowed = {"app": {"allow": ["/v1/status"], "identities": [identity]}}
    server = run_server({"tls": tls, "policy": allowed})
    context = server.ssl_context(None)
    context.load_cert_chain(tmp_path / "app.crt", tmp_path / "app.key")
    with httpx.Client(base_url=server.url, verify=context) as client:
        assert client.get("/v1/identity/self/describe").json()["identity"] == identity
        assert client.get("/v1/status").status_code == 200
        assert client.put("/v1/key/create/x").status_code == 403


def test_client_certificates_are_verified_by_the_cas_of_the_system(run_server: RunServer, tmp_path: Path) -> None:
    """`tls.auth: on` without `tls.ca`: SSL_CERT_FILE takes the place of the CAs of the operating system."""
    known, stranger = make_credentials(tmp_path, "known"), make_credentials(tmp_path, "unknown")
    make_credentials(tmp_path, "server")
    tls = {"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt"), "auth": "on"}
    server = run_server({"tls": tls}, admin=known, environment={"SSL_CERT_FILE": str(known.cert)})
    with server.client(known) as client:
        assert client.get("/v1/status").status_code == 200
    with pytest.raises(OSError, match=r"(?i)alert|eof"):
        ask_for_version(server, stranger)


def test_old_versions_of_tls_are_refused(server: Server) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = server.ssl_context(server.admin)
        context.minimum_version = context.maximum_version = version
        with _connect(server, context) as connection:
            assert connection.version() == version.name.replace("_", ".")
    context = server.ssl_context(server.admin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test needs the old versions
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"(?i)version|protocol|handshake"):
        _connect(server, context)
    context = server.ssl_context(server.admin)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-GCM-SHA384:ECDHE-RSA-AES128-SHA")
    with pytest.raises(OSError, match=r"(?i)handshake|cipher"):
        _connect(server, context)


@pytest.mark.parametrize(
    ("version", "alert"),
    [
        (ssl.TLSVersion.TLSv1_2, "HANDSHAKE_FAILURE|CERTIFICATE_REQUIRED"),
        (ssl.TLSVersion.TLSv1_3, "CERTIFICATE_REQUIRED"),
    ],
)
def test_client_without_a_certificate_gets_an_alert(server: Server, version: ssl.TLSVersion, alert: str) -> None:
    context = server.ssl_context(None)
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError) as caught, _connect(server, context) as connection:
        connection.recv(1)  # TLS 1.3 ends the client's handshake before the server has seen the certificate
    assert re.search(rf"({alert})$", str(caught.value.reason))


@pytest.mark.parametrize(("command", "answers"), [("K", 3), ("k", 0)])
def test_client_may_change_the_keys_of_its_session(server: Server, tmp_path: Path, command: str, answers: int) -> None:
    """Again and again, between requests (RFC 8446, section 4.6.3). With `K` it asks the server to do so, too."""
    messages = tmp_path / "messages"
    files = ["-cert", str(server.admin.cert), "-key", str(server.admin.key), "-msg", "-msgfile", str(messages)]
    address = f"{server.host}:{server.port}"
    arguments = [program("openssl", "openssl"), "s_client", "-brief", "-tls1_3", "-connect", address, *files]
    with subprocess.Popen(arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE) as client:

        def send(text: bytes) -> None:
            assert client.stdin is not None
            client.stdin.write(text)
            client.stdin.flush()

        assert client.stdout is not None
        assert client.stderr is not None
        try:
            for number in range(61):
                send(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = b"".join(iter(client.stdout.readline, b"\r\n"))
                assert head.startswith(b"HTTP/1.1 200 ")
                (length,) = re.findall(rb"content-length: (\d+)", head)
                assert json.loads(client.stdout.read(int(length))).keys() == {"version", "commit"}
                if number in {20, 40, 59}:
                    send(command.encode() + b"\n")
                    assert any(line.startswith(b"KEYUPDATE") for line in client.stderr)
        finally:
            client.kill()
    assert len(re.findall("^<<< .*KeyUpdate$", messages.read_text(), re.MULTILINE)) == answers


def ask_for_version(server: Server, credentials: Credentials) -> int:
    with server.connection(credentials) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        return read_response(connection)[0]


def _connect(server: Server, context: Any) -> Any:
    raw = socket.create_connection((server.host, server.port), timeout=60)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise
