"""Changes while requests are in progress: reloads, stops, keys, hanging workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h2.events
import h2.settings
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.helpers.certificates import make_credentials
from tests.helpers.http2 import Http2Client
from tests.helpers.server import Server, change_config, read_response, reload, write_config
from tests.helpers.workers import start_with_workers, workers_of

Run = Callable[..., Server]

SLOW_DELETE = """
import asyncio, pathlib
from kes_fs.store import FileKeyStore
delete = FileKeyStore.delete
async def slow(self, name):
    pathlib.Path("deleting").touch()
    while not pathlib.Path("go-on").exists():
        await asyncio.sleep(0.01)
    await delete(self, name)
FileKeyStore.delete = slow
from kes_core.cli import main
main()
"""


def test_key_that_is_deleted_while_the_server_reloads_is_gone(run_server: Run, tmp_path: Path) -> None:
    """The new state has read the key while the old state was deleting it."""
    store = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "keys": [{"name": "k"}]}
    server = run_server(store, python=("-c", SLOW_DELETE))
    answers: list[int] = []

    def delete() -> None:
        with server.client() as client:
            answers.append(client.delete("/v1/key/delete/k").status_code)

    thread = threading.Thread(target=delete)
    with server.client() as client:
        thread.start()
        while not (tmp_path / "deleting").exists():
            pass
        reload(server)
        assert client.put("/v1/key/generate/k").status_code == 200  # not deleted yet
        (tmp_path / "go-on").touch()
        thread.join()
        assert answers == [200]
        assert client.put("/v1/key/generate/k").status_code == 404


def test_answer_that_is_not_taken_is_audited_and_broken_off(run_server: Run) -> None:
    """The client leaves no room for the last byte, so it gets all bytes but that one."""
    hurried = "import kes_core.server.wire.http2 as h, kes_core.cli as c; h.WINDOW_TIMEOUT = 0.5; c.main()"
    server = run_server({"keys": [{"name": "k"}], "log": {"audit": "on"}}, python=("-c", hurried))
    with server.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 20})
        stream = client.request("PUT", "/v1/key/generate/k")
        client.h2.increment_flow_control_window = lambda *_arguments: None  # type: ignore[method-assign] # nothing more
        client.h2.acknowledge_received_data = lambda *_arguments: None  # type: ignore[method-assign] # nor by this
        client.flush()
        got, reset = b"", False
        while not reset:
            for event in client.events():
                if isinstance(event, h2.events.DataReceived):
                    got += event.data
                reset = reset or isinstance(event, h2.events.StreamReset)
        assert len(got) == 20
        record = server.next_audit_record()
        assert (record["request"]["path"], record["response"]["code"]) == ("/v1/key/generate/k", 200)
        # The connection stays usable.
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535})
        assert client.request("GET", "/version") > stream
        client.flush()
        while not any(isinstance(event, h2.events.StreamEnded) for event in client.events()):
            pass
    assert server.stop() == 0


def test_verification_that_is_switched_on_counts_for_open_connections(run_server: Run, tmp_path: Path) -> None:
    user = make_credentials(tmp_path, "user")
    policy = {"policy": {"p": {"allow": ["/v1/*"], "identities": [user.identity]}}}
    server = run_server(policy)
    with server.connection(user) as connection:
        request = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connection.sendall(request)
        assert read_response(connection)[0] == 200
        tls = yaml.safe_load(server.config_path.read_text())["tls"]
        change_config(server, {"tls": tls | {"auth": "on", "ca": str(server.admin.cert)}})
        reload(server)
        connection.sendall(request)
        status, _headers, body = read_response(connection)
    message = "tls: client certificates are verified by now: connect again"
    assert (status, json.loads(body)) == (400, {"message": message})


def test_certificate_that_openssl_refuses_changes_nothing(run_server: Run, tmp_path: Path) -> None:
    """With the old certificate back in place, the next reload works again."""
    server = run_server()
    before = {name: (tmp_path / name).read_bytes() for name in ("server.key", "server.crt")}
    key = rsa.generate_private_key(65537, 1024)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weak")])
    own = x509.load_pem_x509_certificate(before["server.crt"])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(own.not_valid_before_utc)
    weak = builder.not_valid_after(own.not_valid_after_utc).sign(key, SHA256())
    (tmp_path / "server.crt").write_bytes(weak.public_bytes(Encoding.PEM))
    (tmp_path / "server.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server.signal(signal.SIGHUP)
    line = json.loads(server.wait_for_log("the configuration is not reloaded"))
    assert f"OpenSSL rejects the certificate '{tmp_path}/server.crt': ee key too small" in line["message"]
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    reload(server)


def test_certificate_of_an_unknown_version_ends_the_connection(run_server: Run, tmp_path: Path) -> None:
    client = make_credentials(tmp_path, "odd")
    certificate = x509.load_pem_x509_certificate(client.cert.read_bytes()).public_bytes(Encoding.DER)
    place = certificate.index(b"\xa0\x03\x02\x01\x02") + 4  # RFC 5280, section 4.1: version 3 is written 2
    odd = certificate[:place] + b"\x03" + certificate[place + 1 :]
    client.cert.write_text(ssl.DER_cert_to_PEM_cert(odd))
    server = run_server()
    with contextlib.suppress(OSError), server.connection(client) as connection:
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not connection.recv(1000)
    assert "the client's certificate '' is refused: it can't be read" in server.wait_for_log("refused a connection")
    assert server.stop() == 0
    assert not [line for line in server.errors if "traceback" in line]


# Workers


def test_worker_that_hangs_is_replaced_when_a_key_is_deleted(run_server: Run, tmp_path: Path) -> None:
    """A hanging worker could go on using the key. It neither blocks a reload nor prevents its own replacement."""
    server = start_with_workers(run_server, tmp_path, {"keys": [{"name": "k"}]})
    hanging = workers_of(server)[0]
    os.kill(hanging, signal.SIGSTOP)
    with server.client() as client:
        assert client.delete("/v1/key/delete/k").status_code == 200
        server.wait_for_log("worker 1 does not answer and is killed")
        server.wait_for_log("worker 1 has died, killed by signal 9, and is replaced")
        reload(server)
        while len(set(workers_of(server)) - {hanging}) < 3:
            pass
    assert server.stop() == 0


def test_workers_import_nothing_from_where_the_server_is_started(run_server: Run, tmp_path: Path) -> None:
    (tmp_path / "kes_core").mkdir()
    (tmp_path / "kes_core" / "__init__.py").write_text("open('imported', 'w')")
    server = start_with_workers(run_server, tmp_path, python=("-P", "-m", "kes_core.cli"))
    with server.client() as client:
        assert client.get("/version").status_code == 200
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_server_that_still_waits_for_its_key_store_can_be_stopped(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        endpoint = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        vault = {"endpoint": endpoint, "approle": {"id": "a", "secret": "b"}}
        config = write_config(tmp_path, "disabled", {"keystore": {"vault": vault}, "workers": workers})
        command = [sys.executable, "-m", "kes_core.cli", "server", "--config", str(config)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            connection, _address = deaf.accept()
            process.terminate()
            _output, errors = process.communicate(timeout=60)
            connection.close()
    assert process.returncode == 0, errors
    assert "stopped before it had started" in errors
