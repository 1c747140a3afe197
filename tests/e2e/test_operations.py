"""What operators see of a running server: systemd, warnings of expiry, and why it refused a request."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.cli.identity import write_certificate
from kes_core.identity import APIKey, make_certificate, private_key_pem
from tests.helpers.certificates import Credentials, make_credentials, make_server_certificate
from tests.helpers.command import run_kes
from tests.helpers.observation import families
from tests.helpers.server import Server

Run = Callable[..., Server]


# systemd


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_systemd_is_notified(run_server: Run, tmp_path: Path, abstract: bool, workers: int) -> None:
    """The server works with `Type=notify` and with `Type=notify-reload`."""
    path = f"@kes-test-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + path[1:] if abstract else path)
        systemd.settimeout(60)
        store = {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "workers": workers}
        server = run_server(store, environment={"NOTIFY_SOCKET": path})
        assert systemd.recv(1000) == b"READY=1\nSTATUS=serving"
        server.signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", systemd.recv(1000))
        assert systemd.recv(1000) == b"READY=1\nSTATUS=serving"
        server.config_path.write_text("broken")
        server.signal(signal.SIGHUP)
        assert systemd.recv(1000).startswith(b"RELOADING=1")
        assert b"could not be used, see the log" in systemd.recv(1000)
        assert server.stop() == 0
        assert systemd.recv(1000) == b"STOPPING=1"


# Certificates that expire


def certificate(directory: Path, name: str, valid_for: dt.timedelta) -> Credentials:
    directory.mkdir(exist_ok=True)
    key, cert = directory / f"{name}.key", directory / f"{name}.crt"
    private = Ed25519PrivateKey.generate()
    made = make_certificate(private, subject=name, valid_for=valid_for, dns=["localhost"], ips=[])
    key.write_bytes(private_key_pem(private, None))
    cert.write_bytes(made.public_bytes(Encoding.PEM))
    return Credentials(APIKey(private.private_bytes_raw()), key, cert)


def server_with(run_server: Run, directory: Path, valid_for: dt.timedelta, **more: Any) -> Server:
    own = certificate(directory, "own", valid_for)
    return run_server({"tls": {"key": str(own.key), "cert": str(own.cert), **more}}, directory=directory)


def test_servers_certificate_that_expires_soon(run_server: Run, tmp_path: Path) -> None:
    server = server_with(run_server, tmp_path / "soon", dt.timedelta(days=13, hours=12))
    (line,) = [json.loads(line) for line in server.errors if "expires in" in line]
    assert line["level"] == "WARNING"
    message = r"the certificate '.*own.crt' expires in 13 days \(.* UTC\): put a new one in its place"
    assert re.fullmatch(message, line["message"])
    expiry = families(server)["kes_tls_certificate_expiry_timestamp_seconds"][1][""]
    with server.client() as client:
        shown = client.get("/v1/status").json()["certificate_expires_at"]
    assert dt.datetime.fromisoformat(shown).timestamp() == expiry
    left = expiry - dt.datetime.now(dt.UTC).timestamp()
    assert 13 < left / 86400 < 14
    # A reload does not repeat the warning, and a certificate with more days gets none.
    server.signal(signal.SIGHUP)
    server.wait_for_log("is reloaded")
    assert sum("expires in" in line for line in server.errors) == 1
    later = server_with(run_server, tmp_path / "later", dt.timedelta(days=15))
    assert not [line for line in later.errors if "expire" in line]
    with later.client() as client:
        shown = client.get("/v1/status").json()["certificate_expires_at"]
    assert 14 < (dt.datetime.fromisoformat(shown) - dt.datetime.now(dt.UTC)) / dt.timedelta(days=1) < 15


def test_servers_certificate_that_has_expired(run_server: Run, tmp_path: Path) -> None:
    server = server_with(run_server, tmp_path / "old", dt.timedelta(seconds=-1))
    (line,) = [json.loads(line) for line in server.errors if "has expired" in line]
    assert "put one that is valid in its place; until then clients refuse this server" in line["message"]
    done = run_kes("config", "check", server.config_path)
    assert done.returncode == 1
    assert "tls: the certificate" in done.stderr
    assert "has expired" in done.stderr


def test_clients_certificate_that_expires_soon(run_server: Run, tmp_path: Path) -> None:
    soon = certificate(tmp_path, "soon", dt.timedelta(days=3, hours=1))
    later = certificate(tmp_path, "later", dt.timedelta(days=30))
    authorities = tmp_path / "cas"
    authorities.mkdir()
    for client in (soon, later):
        (authorities / client.cert.name).write_bytes(client.cert.read_bytes())
    key, cert = make_server_certificate(tmp_path)
    tls = {"key": str(key), "cert": str(cert), "auth": "on", "ca": str(authorities)}
    server = run_server({"tls": tls}, admin=later)
    for client in (soon, later, soon):
        with server.client(client) as connection:
            connection.get("/v1/status")
    server.wait_for_log(f"the certificate of the client {soon.identity} expires in 3 days")
    with server.client(later) as connection:
        assert connection.get("/v1/status").json()["client_certificates_expiring"] == 1
        metrics = connection.get("/v1/metrics").text
    assert f'kes_tls_client_certificate_expiry_timestamp_seconds{{identity="{soon.identity}"}}' in metrics
    assert later.identity not in metrics
    assert sum("expires in" in line for line in server.errors) == 1


def test_clients_certificate_that_expires_soon_where_it_is_not_verified(run_server: Run, tmp_path: Path) -> None:
    """The log says that the server will accept the certificate even then, as it does not verify certificates."""
    soon = certificate(tmp_path, "soon", dt.timedelta(days=3))
    server = run_server()
    with server.client(soon) as client:
        client.get("/version")
    assert soon.identity in str(families(server)["kes_tls_client_certificate_expiry_timestamp_seconds"])
    line = json.loads(server.wait_for_log(f"the certificate of the client {soon.identity} expires in 2 days"))
    assert line["level"] == "INFO"
    assert line["message"].endswith("the server accepts it even then")


# Who refused me, and why?


def test_refusal_names_the_layer_and_the_rule(run_server: Run, tmp_path: Path) -> None:
    known, stranger = make_credentials(tmp_path, "known"), make_credentials(tmp_path, "stranger")
    policy = {"allow": ["/v1/key/create/*"], "deny": ["/v1/key/create/x*"], "identities": [known.identity]}
    server = run_server({"policy": {"p": policy}, "api": {"/v1/metrics": {"skip_auth": "on"}}})

    def refused(credentials: Credentials | None, path: str) -> tuple[dict[str, Any], str]:
        context = server.ssl_context(credentials)
        with httpx.Client(base_url=server.url, verify=context) as client:
            answer = client.put(path)
        return answer.json(), json.loads(server.wait_for_log("refused"))["message"]

    refusal = {"message": "not authorized: insufficient permissions"}
    place = "at 127.0.0.1: "
    assert refused(stranger, "/v1/key/create/a") == (
        refusal,
        f"refused '/v1/key/create/a' to {stranger.identity} {place}policy: static: the identity is in no policy",
    )
    answer, line = refused(known, "/v1/key/create/xyz")
    assert answer == refusal
    assert line.startswith(f"refused '/v1/key/create/xyz' to {known.identity} {place}policy: static: denied by")
    assert "policy 'p'" in line
    answer, line = refused(known, "/v1/key/import/a")
    assert answer == refusal
    assert "no allow rule of policy 'p' matches" in line
    answer, line = refused(None, "/v1/key/create/a")
    assert answer == {"message": "tls: client certificate is required"}
    assert (
        line
        == f"refused '/v1/key/create/a' to an unknown client {place}certificate: tls: client certificate is required"
    )
    _answer, line = refused(stranger, "/v1/key/create/" + "%0A" * 3000)
    assert "\\n" in line
    assert len(line) < 2000


def test_refused_handshake_says_why(run_server: Run, tmp_path: Path) -> None:
    known, unknown = certificate(tmp_path, "known", dt.timedelta(days=30)), make_credentials(tmp_path, "unknown")
    expired = certificate(tmp_path, "expired", dt.timedelta(seconds=-1))
    authorities = tmp_path / "cas"
    authorities.mkdir()
    for client in (known, expired):
        (authorities / client.cert.name).write_bytes(client.cert.read_bytes())
    key, cert = make_server_certificate(tmp_path)
    tls = {"key": str(key), "cert": str(cert), "auth": "on", "ca": str(authorities)}
    server = run_server({"tls": tls}, admin=known)

    def refused(credentials: Credentials | None) -> str:
        context = server.ssl_context(credentials)
        with pytest.raises((OSError, httpx.TransportError)), httpx.Client(verify=context) as client:
            client.get(server.url + "/version")
        return str(json.loads(server.wait_for_log("refused a connection"))["message"])

    start = "refused a connection from 127.0.0.1: tls: "
    assert refused(None) == start + "the client presented no certificate"
    assert "is refused: it is self-signed, but tls.auth: on needs a certificate" in refused(unknown)
    assert "'CN=expired' is refused: it has expired" in refused(expired)
    with socket.create_connection((server.host, server.port)) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        server.wait_for_log(start + "the client speaks plain HTTP")
    counted = families(server)
    assert counted["kes_tls_handshake_failures_total"][1][""] == 4
    assert counted["kes_tls_handshakes_total"][1][""] >= 1


def test_flood_of_bad_handshakes_does_not_fill_the_log(run_server: Run) -> None:
    server = run_server()
    for _ in range(200):
        with socket.create_connection((server.host, server.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.recv(100)
    server.wait_for_log("more connections: tls: the handshake failed")
    assert server.stop() == 0
    assert sum("tls" in line for line in server.errors) < 100


# Metrics


def test_metrics_beyond_the_protocols(run_server: Run, tmp_path: Path) -> None:
    stranger = make_credentials(tmp_path, "stranger")
    keys = tmp_path / "keys"
    server = run_server({"keys": [{"name": "k"}], "keystore": {"fs": {"path": str(keys)}}})
    before = families(server)
    with server.client() as client:
        for _ in range(3):
            client.put("/v1/key/generate/k")
        client.put("/v1/key/create/k")
        client.put("/v1/key/generate/nothing")
        client.get("/v1/key/list/")
    with server.client(stranger) as client:
        client.put("/v1/key/generate/k")
    keys.rename(tmp_path / "elsewhere")
    with server.client() as client:
        assert client.put("/v1/key/generate/other").status_code == 502
    after = families(server)

    def grown(name: str, labels: str = "") -> float:
        return float(after[name][1].get(labels, 0.0)) - float(before[name][1].get(labels, 0.0))

    assert grown("kes_cache_hits_total") == 2
    assert grown("kes_cache_misses_total") == 3  # k for the first time, nothing, other
    assert grown("kes_keystore_response_time", "_countcreate") == 1
    assert grown("kes_keystore_response_time", "_countlist") == 1
    errors = after["kes_keystore_errors_total"][1]
    assert sum(value for labels, value in errors.items() if labels.startswith("get,")) == 1
    assert grown("kes_policy_decisions_total", "abstain,static") == 1
    assert grown("kes_tls_handshakes_total") == 4
    assert after["kes_workers"][1] == {"": 1.0}


def test_metrics_for_the_go_sdk_have_one_value_each(run_server: Run, tmp_path: Path) -> None:
    """Without an Accept header, no label but `code` splits a metric into several values: the SDK can't parse others."""
    user = make_credentials(tmp_path, "user")
    policy = {"allow": ["/v1/key/*"], "deny": ["/v1/key/delete/*"], "identities": [user.identity]}
    server = run_server({"policy": {"p": policy}})
    with server.client(user) as client:
        for method, path in (("PUT", "create/k"), ("PUT", "generate/k"), ("GET", "list/"), ("DELETE", "delete/k")):
            client.request(method, f"/v1/key/{path}")
    everything = families(server)
    assert len(everything["kes_keystore_response_time"][1]) > 20
    assert len(everything["kes_policy_decisions_total"][1]) > 1
    with server.client() as client:
        del client.headers["accept"]
        text = client.get("/v1/metrics").text
    names = re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)
    assert set(names) == {
        name
        for name, (_kind, samples) in everything.items()
        if name.startswith("kes_http_") or (len(samples) == 1 and "" in samples)
    } - {"kes_http_request_duration_seconds"}  # of no use to the SDK
    assert "kes_cache_hits_total" in names
    assert not re.search(r"\{(?!code=|le=)", text)


# The process


def test_no_core_dump_and_no_secret_in_arguments(run_server: Run, tmp_path: Path) -> None:
    write_certificate(
        tmp_path / "e.key", tmp_path / "e.crt", subject="localhost", dns=[], ips=[], valid_for=dt.timedelta(days=30),
        passphrase="correct horse",
    )  # fmt: skip
    tls = {"key": str(tmp_path / "e.key"), "cert": str(tmp_path / "e.crt"), "password": "correct horse"}
    server = run_server({"tls": tls})
    assert resource.prlimit(server.process.pid, resource.RLIMIT_CORE) == (0, 0)
    assert b"correct horse" not in Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    with server.client() as client:
        assert client.get("/version").status_code == 200


def test_connections_are_kept_alive(run_server: Run) -> None:
    """The server notices that a client has vanished even while it has nothing to send to it."""
    server = run_server()
    with server.connection() as connection:
        # Until the client acknowledges the end of the handshake, the timer for sending it again runs instead.
        while (timer := tcp_timer(server.port, connection.getsockname()[1])) != TIMER_KEEPALIVE:
            assert timer == TIMER_RETRANSMIT


TIMER_RETRANSMIT, TIMER_KEEPALIVE = 1, 2  # proc(5), /proc/net/tcp, the field tr


def tcp_timer(local_port: int, remote_port: int) -> int:
    """Return the kernel's timer for the connection between two ports of this machine."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, _, timer, *_ = line.split()
        if [int(end.rpartition(":")[2], 16) for end in (local, remote)] == [local_port, remote_port]:
            return int(timer.partition(":")[0], 16)
    raise AssertionError("there is no such connection")


@pytest.mark.root
def test_core_is_not_dumped_whatever_the_limit(run_server: Run) -> None:
    """The limit alone is not enough: the kernel ignores it for programs that collect dumps."""
    server = run_server()
    with contextlib.suppress(PermissionError):  # only root may raise the limit
        resource.prlimit(server.process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    server.signal(signal.SIGSEGV)
    _pid, status = os.waitpid(server.process.pid, 0)
    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGSEGV, False)
    server.process.returncode = -signal.SIGSEGV  # tells Popen that the process has been waited for


@pytest.mark.parametrize(("level", "is_logged"), [("on", True), ("debug", True), ("warn", False), ("off", False)])
def test_levels_of_the_error_log(run_server: Run, tmp_path: Path, level: str, is_logged: bool) -> None:
    """The server logs a refusal at the level info. A silent level also hides that the reload is done."""
    stranger = make_credentials(tmp_path, "stranger")
    server = run_server()
    text = server.config_path.read_text()
    server.config_path.write_text(text + f"log:\n  error: '{level}'\n")
    server.signal(signal.SIGHUP)
    with server.client(stranger) as client:
        if is_logged:
            server.wait_for_log("the configuration is reloaded")
            client.get("/v1/status")
            server.wait_for_log("refused '/v1/status'")
            return
        # From the reload on the server logs nothing more, not even that it is done.
        while True:
            seen = len(server.errors)
            for _ in range(10):
                client.get("/v1/status")
            if len(server.errors) == seen:
                break
    assert server.stop() == 0
    assert "refused" not in server.errors[-1] or seen == len(server.errors)
