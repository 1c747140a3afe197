"""An HTTPS proxy between the server and Vault: counts requests, and simulates the faults of a network or a proxy."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import requests

from tests.helpers.openbao import OpenBao
from tests.helpers.threads import serving

__all__ = ["Answer", "Proxy"]

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "content-encoding", "host", "accept-encoding"}


class Answer(NamedTuple):
    """An answer of the proxy instead of Vault's."""

    status: int
    content_type: str
    body: bytes


class Proxy:
    """Passes requests on to `bao`, unless `fault` says otherwise.

    `fault` is None; "stall" to keep requests until `release` is set and then drop them; a float to delay each request
    by that many seconds; an int to answer everything with that status; or a whole `Answer`.
    """

    def __init__(self, bao: OpenBao) -> None:
        self.bao = bao
        self.fault: str | float | int | Answer | None = None
        self.release = threading.Event()
        self.location = ""
        """The target of the proxy's own redirections."""
        self.message = "in the way"
        """The message of the proxy's own errors, in Vault's format."""
        self.added: dict[str, str] = {}
        """Headers that the proxy adds to Vault's answers."""
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request."""
        self._changed = threading.Condition()
        self._upstream = requests.Session()
        self._upstream.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=64))
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(bao.ca, bao.directory / "vault.key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        with serving(self._server, self.release):
            yield self

    def note(self, method: str, path: str) -> None:
        with self._changed:
            self.requests.append((method, path))
            self._changed.notify_all()

    def wait_for(self, method: str, part: str, count: int, timeout: float = 60) -> None:
        """Wait until `count` such requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(method, part) >= count, timeout), self.requests

    def count(self, method: str, part: str) -> int:
        """Return the number of requests with this method and with `part` in their path."""
        return sum(seen == method and part in path for seen, path in self.requests)

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> requests.Response:
        return self._upstream.request(
            method,
            self.bao.url + path,
            headers=headers,
            data=body,
            verify=str(self.bao.ca),
            allow_redirects=False,
            timeout=30,
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy
    timeout = 60

    def log_message(self, *_arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        proxy = self.owner
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        proxy.note(self.command, self.path)
        fault = proxy.fault
        if fault == "stall":
            proxy.release.wait()
            self.close_connection = True
            return
        if isinstance(fault, float):
            threading.Event().wait(fault)
        if isinstance(fault, int) and not isinstance(fault, bool):
            headers = {"content-type": "application/json"} | ({"location": proxy.location} if proxy.location else {})
            self._answer(fault, headers, json.dumps({"errors": [proxy.message]}).encode())
            return
        if isinstance(fault, Answer):
            self._answer(fault.status, {"content-type": fault.content_type} if fault.content_type else {}, fault.body)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            answer = proxy.forward(self.command, self.path, headers, body)
        except requests.exceptions.RequestException:
            self._answer(502, {}, b"")
            return
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        self._answer(answer.status_code, kept | proxy.added, answer.content)

    do_GET = do_POST = do_PUT = do_DELETE = do_LIST = _serve  # noqa: N815 # the names that http.server looks for

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
