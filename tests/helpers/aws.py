"""AWS in tests: a moto server in a process of its own, and a proxy that brings about what moto does not do."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import selectors
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import boto3.session
import requests
import trustme

from kes_aws.config import SecretsManagerConfig
from tests.helpers.threads import serving

__all__ = ["DENIED", "EXPIRED", "THROTTLED", "AWSProxy", "Gate", "Moto", "Reply"]

# One request at a time: moto looks whether a name is free, and takes it later. AWS does both at once. With the name of
# a service, moto does not have to find out for each request which one it is for.
_SERVE: Final = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

service = sys.argv[1]
application = create_backend_app(service) if service else DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=MotoRequestHandler)
print(server.port, flush=True)
server.serve_forever()
"""
_regions: Final = itertools.count(1)
ACCESS_KEY: Final = "AKIAKESTESTACCESSKEY"
SECRET_KEY: Final = "kes-test-secret-access-key"
TOKEN: Final = "kes-test-session-token"


class Moto:
    """A moto server. Each region is an AWS of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self.url = f"http://127.0.0.1:{int(process.stdout.readline())}"

    @classmethod
    @contextmanager
    def running(cls, service: str = "secretsmanager") -> Iterator[Moto]:
        """Run a server for one service of AWS, or for all of them if `service` is empty."""
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, service],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Coverage would slow it down, and has nothing to measure in it.
            env={name: value for name, value in os.environ.items() if not name.startswith("COV")}
            | {"MOTO_ALLOW_NONEXISTENT_REGION": "true"},
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    def section(self, **fields: Any) -> dict[str, Any]:
        """Return the section `keystore.aws.secretsmanager` for a region that no other test uses."""
        credentials = {"accesskey": ACCESS_KEY, "secretkey": SECRET_KEY, "token": TOKEN}
        section = {"endpoint": self.url, "region": f"test-region-{next(_regions)}", "credentials": credentials}
        return section | {"timeout": "20s", "start_timeout": "0s"} | fields

    def config(self, **fields: Any) -> SecretsManagerConfig:
        return SecretsManagerConfig.model_validate(self.section(**fields))

    def client(self, config: SecretsManagerConfig, service: str = "secretsmanager") -> Any:
        """Return boto3's own client for the region of a configuration, past any proxy."""
        return boto3.session.Session(
            aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=config.region
        ).client(service, endpoint_url=self.url)

    def user_with_policy(self, policy: str, *, without: str = "") -> dict[str, str]:
        """Return the access key of a new user, for `credentials`, whose only policy is `policy` without an action.

        moto evaluates the actions of policies, and of the resources only `*`.
        """
        document = json.loads(policy)
        for statement in document["Statement"]:
            statement["Resource"] = "*"
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            statement["Action"] = [action for action in actions if not without or not action.endswith(f":{without}")]
        document["Statement"] = [statement for statement in document["Statement"] if statement["Action"]]
        iam = self.client(SecretsManagerConfig.model_validate(self.section(region="us-east-1")), "iam")
        name = f"kes-{next(_regions)}"
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="kes", PolicyDocument=json.dumps(document))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {"accesskey": key["AccessKeyId"], "secretkey": key["SecretAccessKey"]}

    @contextmanager
    def checking_policies(self) -> Iterator[None]:
        """Let moto check signatures and policies, which it does not by itself."""
        requests.post(f"{self.url}/moto-api/reset-auth", data="0", timeout=30).raise_for_status()
        try:
            yield
        finally:
            requests.post(f"{self.url}/moto-api/reset-auth", data="inf", timeout=30).raise_for_status()


@dataclass
class Reply:
    """What the proxy answers in the place of AWS."""

    code: str
    """AWS's code of the error."""
    text: str = ""
    status: int = 400
    body: bytes | None = None
    """Instead of an error of AWS: what another program answers."""
    headers: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        return json.dumps({"__type": self.code, "message": self.text}).encode() if self.body is None else self.body


THROTTLED: Final = Reply("ThrottlingException", "Rate exceeded")
EXPIRED: Final = Reply("ExpiredTokenException", "The security token included in the request is expired")
DENIED: Final = Reply("AccessDeniedException", "User: arn:aws:iam::123456789012:user/kes is not authorized to perform")

_IAM: Final = {
    "AccessDenied": "AccessDeniedException",
    "SignatureDoesNotMatch": "InvalidSignatureException",
    "InvalidClientTokenId": "UnrecognizedClientException",
}
"""moto refuses requests with IAM's answers, in XML; this is what Secrets Manager says, in JSON and with status 400."""
_HOP_BY_HOP: Final = {"connection", "transfer-encoding", "content-length", "content-encoding", "keep-alive"}


class AWSProxy:
    """Passes requests on to moto, unless a test has planned something else for an operation."""

    def __init__(self, moto: Moto, ca: trustme.CA | None = None) -> None:
        self.operations: list[str] = []
        """The operation of each request: `GetSecretValue`."""
        self.release = threading.Event()
        self._moto = moto
        self._plans: dict[str, list[Reply | str | float]] = {}
        self._always: dict[str, Reply | str | float] = {}
        self._lock = threading.Lock()
        proxy = self

        class Handler(_AWSHandler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if ca is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ca.issue_cert("127.0.0.1").configure_cert(context)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'http' if ca is None else 'https'}://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[AWSProxy]:
        with serving(self._server, self.release):
            yield self

    def plan(self, operation: str, *what: Reply | str | float) -> None:
        """Plan what happens to the next requests for an operation, in this order.

        A `Reply` is answered here. "lose" passes the request on and closes the connection without the answer; "cut"
        closes it without passing it on; "pass" passes it on as usual; "stall" answers nothing until `release` is set.
        """
        with self._lock:
            self._plans.setdefault(operation, []).extend(what)

    def always(self, operation: str, what: Reply | str | None) -> None:
        """Let this happen to every request for an operation, or for every one with the operation `*`; None: no more."""
        with self._lock:
            self._always.pop(operation, None)
            if what is not None:
                self._always[operation] = what

    def planned(self, operation: str) -> Reply | str | float:
        with self._lock:
            self.operations.append(operation)
            if self._plans.get(operation):
                return self._plans[operation].pop(0)
            return self._always.get(operation, self._always.get("*", "pass"))

    def is_over(self) -> bool:
        """Tell whether all that was planned has happened."""
        with self._lock:
            return not any(self._plans.values())

    def forward(self, path: str, headers: Mapping[str, str], body: bytes) -> requests.Response:
        return requests.post(self._moto.url + path, headers=dict(headers), data=body, timeout=60)


class _AWSHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: AWSProxy
    timeout = 60

    def log_message(self, *_arguments: Any) -> None:
        pass

    def do_POST(self) -> None:  # the name that http.server looks for
        proxy = self.owner
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        what = proxy.planned(self.headers.get("x-amz-target", "").rpartition(".")[2])
        if isinstance(what, Reply):
            self._answer(what.status, {"content-type": "application/x-amz-json-1.1", **what.headers}, what.content())
            return
        if what == "stall":
            proxy.release.wait()
        if what in {"cut", "stall"}:
            self.close_connection = True
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        answer = proxy.forward(self.path, headers, body)
        if what == "lose":
            self.close_connection = True
            return
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        refusal = re.search(rb"<Code>(\w+)</Code><Message>(.*?)</Message>", answer.content)
        if refusal is not None:
            code, text = (part.decode() for part in refusal.groups())
            reply = Reply(_IAM.get(code, code), text)
            self._answer(reply.status, {"content-type": "application/x-amz-json-1.1"}, reply.content())
            return
        self._answer(answer.status_code, kept, answer.content)

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response_only(status)  # without a date of its own
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Gate:
    """A port that leads to moto while it is open. It passes bytes on and costs little, unlike the proxy."""

    def __init__(self, moto: Moto) -> None:
        self._target = ("127.0.0.1", int(moto.url.rpartition(":")[2]))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._selector = selectors.DefaultSelector()
        self._is_open = True
        self._is_done = False
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @contextmanager
    def running(self) -> Iterator[Gate]:
        self._selector.register(self._listener, selectors.EVENT_READ)
        thread = threading.Thread(target=self._pass_on, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._is_done = True
            socket.create_connection(self._listener.getsockname()).close()  # wakes the thread
            thread.join()
            for key in list(self._selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr] # all are sockets
            self._selector.close()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close each connection without an answer, inside the block."""
        self._is_open = False
        try:
            yield
        finally:
            self._is_open = True

    def _pass_on(self) -> None:
        while not self._is_done:
            for key, _events in self._selector.select():
                if key.fileobj is self._listener:
                    near, _address = self._listener.accept()
                    far = socket.create_connection(self._target)
                    self._selector.register(near, selectors.EVENT_READ, far)
                    self._selector.register(far, selectors.EVENT_READ, near)
                elif self._selector.get_map().get(key.fd) is key:
                    self._move(key.fileobj, key.data)

    def _move(self, source: Any, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._is_open and (data := source.recv(1 << 20)):
                target.sendall(data)
                return
        for each in (source, target):  # moto answers one request on a connection
            self._selector.unregister(each)
            each.close()
