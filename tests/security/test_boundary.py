"""The text of a plugin's exception, which may contain a key, reaches no log and no client, and the server goes on."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kes_core.testing._secrets import Secrets
from tests.helpers.certificates import make_credentials
from tests.helpers.hostile_plugin import CANARY
from tests.helpers.packages import install_module
from tests.helpers.server import Server, start_server

PLUGIN = Path(__file__).parents[1] / "helpers" / "hostile_plugin.py"
KEY = b"canary-6f1d0c-as-the-key's-bytes"


@contextlib.contextmanager
def running(directory: Path, fault: str, overrides: dict[str, Any], **environment: str) -> Iterator[Server]:
    config = {
        "keystore": {"hostile": {}},
        "policy_engines": {"hostile": {}},
        "audit_sinks": {"hostile": {}},
        **overrides,
    }
    environment = {**install_module(directory, PLUGIN), "KES_TEST_FAULT": fault, **environment}
    server = start_server(directory, config, environment=environment)
    try:
        yield server
    finally:
        server.kill()


class Stream:
    """The lines that a client reads from the stream of the error log."""

    def __init__(self, server: Server) -> None:
        self.lines: list[str] = []
        self._opened, self._first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._read, args=(server,), daemon=True)
        self._thread.start()
        assert self._opened.wait(60)

    def _read(self, server: Server) -> None:
        with (
            contextlib.suppress(httpx.TransportError),
            server.client() as client,
            client.stream("GET", "/v1/log/error") as response,
        ):
            self._opened.set()
            for line in response.iter_lines():
                self.lines.append(line)
                self._first.set()

    def end(self) -> list[str]:
        assert self._first.wait(60)
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.lines


def ask_for_everything(admin: httpx.Client, stranger: httpx.Client) -> list[httpx.Response]:
    body = json.dumps({"key": base64.b64encode(KEY).decode(), "cipher": "AES256"})
    return [
        admin.put("/v1/key/import/my-key", content=body),
        admin.put("/v1/key/create/my-key"),
        admin.put("/v1/key/generate/my-key"),
        admin.get("/v1/key/describe/my-key"),
        admin.get("/v1/key/list/*"),
        admin.delete("/v1/key/delete/my-key"),
        admin.get("/v1/ready"),
        admin.get("/v1/status"),
        stranger.get("/v1/key/describe/my-key"),
        stranger.get("/v1/key/describe/later"),
    ]


@pytest.mark.parametrize(
    ("fault", "level", "workers"),
    [
        ("value", "debug", 1),
        ("value", "info", 1),
        ("value", "debug", 2),
        ("chained", "debug", 1),
        ("exit", "debug", 1),
        ("exit", "info", 2),
        ("cancel", "debug", 1),
        ("group", "debug", 1),
    ],
)
def test_no_text_of_a_plugins_exception_is_shown(fault: str, level: str, workers: int, tmp_path: Path) -> None:
    stranger = make_credentials(tmp_path, "stranger")
    policy = {"all": {"allow": ["/v1/*"], "identities": [stranger.identity]}}
    overrides = {"workers": workers, "log": {"error": level, "audit": "off"}, "policy": policy}
    with running(tmp_path, fault, overrides) as server:
        stream = Stream(server)
        with server.client() as admin, server.client(stranger) as client:
            answers = ask_for_everything(admin, client)
            # A failing store is a 502 and a failing engine a 403; nothing is a 500, and no connection ends.
            assert [answer.status_code for answer in answers] == [502] * 7 + [200] + [403] * 2
        assert server.stop() == 0
        streamed = stream.end()
        lines = server.errors
    shown = (*lines, *streamed, *(answer.text for answer in answers), *server.audit.queue)
    assert not [text for text in shown if CANARY in text]
    Secrets([KEY]).look_in("what the server shows", [("a line", text) for text in shown])
    log = "\n".join(lines)
    kind = {"value": "ValueError", "exit": "SystemExit", "cancel": "CancelledError", "group": "BaseExceptionGroup"}
    if fault in kind:
        whose = "the key store 'hostile' (plugin 'hostile' of kes-hostile 1.0) failed in create"
        assert f"{whose}: {kind[fault]}, which is a fault of its plugin" in log
    else:
        assert "it failed " + "x" * 499 + "..." in log
        assert "x" * 500 not in log
    engine = "the policy engine 'hostile' (plugin 'hostile' of kes-hostile 1.0)"
    assert f"{engine} failed in authorize" in log if fault in kind else f"{engine}: it failed xxx" in log
    assert "the audit sink 'hostile' (plugin 'hostile' of kes-hostile 1.0) did not take 1 records" in log
    assert "the plugin 'hostile' of kes-hostile failed in kes_server_started" in log
    assert "the plugin 'hostile' of kes-hostile failed in kes_server_stopping" in log
    # Only `log.error: debug` shows where a plugin failed, and only if a caller sees the error.
    of_the_store = [line for line in lines if "failed in create" in line]
    assert any("hostile_plugin.py:" in line for line in of_the_store) == (level == "debug" and fault != "chained")


@pytest.mark.parametrize("workers", [1, 2])
def test_server_stops_though_a_plugin_does_not(workers: int, tmp_path: Path) -> None:
    """The server stops despite a `close` that ignores cancellation and a thread that never ends."""
    with running(tmp_path, "hang", {"workers": workers}) as server:
        assert server.stop() == 0
    whose = "the key store 'hostile' (plugin 'hostile' of kes-hostile 1.0)"
    assert any(f"{whose} did not close within 5 s and is left as it is" in line for line in server.errors)
