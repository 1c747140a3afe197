"""SIGHUP replaces everything while requests run, and no request fails; a broken file replaces nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h2.events
import pytest
import yaml

from tests.helpers.certificates import make_credentials, make_server_certificate
from tests.helpers.http2 import Http2Client
from tests.helpers.server import RUNTIME, Server, change_config, reload

Run = Callable[..., Server]

CONNECTIONS = 4
STREAMS = 250
"""The number of requests that the server takes at a time on one connection."""
BODY = b'{"plaintext":"AAAA"}'


class Waiting(Http2Client):
    """A connection with requests that have begun and wait for the rest of their bodies."""

    def begin(self, count: int, path: str) -> None:
        self.streams = [self.request("PUT", path, end=False) for _ in range(count)]
        for stream in self.streams:
            self.h2.send_data(stream, BODY[:5])
        self.flush()

    def finish(self) -> list[bytes]:
        """Send the rest of all bodies; return the statuses."""
        for stream in self.streams:
            self.h2.send_data(stream, BODY[5:], end_stream=True)
        self.flush()
        statuses: list[bytes] = []
        ended = 0
        while ended < len(self.streams):
            for event in self.events():
                if isinstance(event, h2.events.ResponseReceived):
                    statuses.append(dict(event.headers)[b":status"])
                elif isinstance(event, h2.events.StreamEnded):
                    ended += 1
                assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), event
        return statuses


@pytest.mark.parametrize("workers", [1, 2])
def test_1000_running_requests_survive_a_reload(run_server: Run, tmp_path: Path, workers: int) -> None:
    """The reload replaces policies, identities, certificate, cache, log, keys and the key store."""
    someone, other = make_credentials(tmp_path, "someone"), make_credentials(tmp_path, "other")
    policy = {"allow": ["/v1/key/encrypt/*"], "identities": [someone.identity]}
    stores = [{"keystore": {"fs": {"path": str(tmp_path / name)}}, "keys": [{"name": "k"}]} for name in ("a", "b")]
    server = run_server({**stores[0], "workers": workers, "policy": {"p": policy}, "cache": {"expiry": {"any": "1s"}}})
    with contextlib.ExitStack() as stack:
        connections = [
            Waiting(stack.enter_context(server.connection(someone, alpn=["h2"]))) for _ in range(CONNECTIONS)
        ]
        for connection in connections:
            connection.begin(STREAMS, "/v1/key/encrypt/k")
        with server.client() as admin:
            while "kes_http_request_active 1000.0" not in admin.get("/v1/metrics").text:
                pass
        # The client loses its policy and the key moves to another store. Both apply only to later requests.
        key, cert = make_server_certificate(tmp_path)
        change_config(
            server,
            {
                **stores[1],
                "policy": {"q": {"allow": ["/v1/key/*"], "identities": [other.identity]}},
                "tls": {"key": str(key), "cert": str(cert)},
                "cache": {"expiry": {"any": "1h", "unused": "1h"}},
                "log": {"error": "error", "audit": "on"},
                "keys": [{"name": "k"}, {"name": "another"}],
            },
        )
        server.signal(signal.SIGHUP)
        with server.client(other) as late:
            while late.put("/v1/key/generate/another").status_code != 200:
                pass
        for connection in connections:
            assert connection.finish() == [b"200"] * STREAMS
    with server.client(someone) as client:
        assert client.put("/v1/key/encrypt/k", content=BODY).status_code == 403
    assert server.next_audit_record()["response"]["code"] in {200, 403}
    assert server.stop() == 0


def test_no_request_fails_while_it_is_done_again_and_again(run_server: Run, tmp_path: Path) -> None:
    stores = [{"keystore": {"fs": {"path": str(tmp_path / name)}}, "keys": [{"name": "k"}]} for name in ("a", "b")]
    server = run_server(stores[0])
    problems: list[str] = []
    done = threading.Event()

    def swap() -> None:
        try:
            for number in range(1, 7):
                change_config(server, stores[number % 2])
                reload(server)
                server.config_path.write_text(server.config_path.read_text() + "\nbroken: [\n")
                server.signal(signal.SIGHUP)
                server.wait_for_log("the configuration is not reloaded")
                server.config_path.write_text(server.config_path.read_text().removesuffix("\nbroken: [\n"))
        except BaseException as error:
            problems.append(repr(error))
        finally:
            done.set()

    thread = threading.Thread(target=swap)
    with server.connection(alpn=["h2"]) as connection:
        client = Http2Client(connection)
        thread.start()
        count = 0
        while not done.is_set() or count < 1000:
            assert client.run("PUT", "/v1/key/generate/k", count=200, at_once=50) == 200
            count += 200
    thread.join()
    assert not problems


BROKEN: dict[str, tuple[dict[str, Any] | str, str]] = {
    "no YAML": ("a: [", "not valid YAML"),
    "empty": ("", "the file is empty"),
    "unknown field": ({"polcy": {}}, "did you mean 'policy'?"),
    "no key store": ({"keystore": {}}, "name the one key store to use"),
    "store that does not work": ({"keystore": {"fs": {"path": "/proc/keys"}}}, "the key directory '/proc/keys'"),
    "no certificate": ({"tls": {"key": "none.key", "cert": "none.crt"}}, "the private key 'none.key' can't be read"),
    "no CA": (
        {"tls": {"key": "{tmp}/server.key", "cert": "{tmp}/server.crt", "auth": "on", "ca": "{tmp}/x"}},
        "tls.ca",
    ),
    "no audit log": ({"audit": {"file": {"path": "{tmp}/none/a"}}}, "the audit log '{tmp}/none/a' can't be opened"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_file_changes_nothing_and_says_why(run_server: Run, tmp_path: Path, broken: str) -> None:
    if broken == "empty" and RUNTIME in os.environ:
        pytest.skip("with an option, the file is not all there is")
    server = run_server({"keys": [{"name": "k"}]})
    content, message = BROKEN[broken]
    with server.client() as client:
        if isinstance(content, str):
            server.config_path.write_text(content)
        else:
            config = yaml.safe_load(server.config_path.read_text())
            text = yaml.safe_dump({**config, **content}).replace("{tmp}", str(tmp_path))
            server.config_path.write_text(text)
        server.signal(signal.SIGHUP)
        line = json.loads(server.wait_for_log("the configuration is not reloaded, the old one stays in use"))
        assert message.replace("{tmp}", str(tmp_path)) in line["message"]
        assert client.put("/v1/key/generate/k").status_code == 200


def test_what_changes_only_with_a_restart_is_said(run_server: Run, tmp_path: Path) -> None:
    server = run_server({"keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    change_config(server, {"workers": 2, "probe": {"address": "127.0.0.1:0"}, "address": "127.0.0.1:1"})
    server.signal(signal.SIGHUP)
    for field in ("address", "probe", "workers"):
        server.wait_for_log(f"{field} changes only with a restart")
    server.wait_for_log("the configuration is reloaded")
