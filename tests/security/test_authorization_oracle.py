"""Several clients make requests generated from the API's description, and an oracle predicts each decision.

The oracle follows section 2 of the protocol and shares no code with the server. For every request, the oracle and the
server must decide alike, and the answers must be documented ones.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import httpx
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.core import NotSet

from tests.helpers.app import make_app
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.effort import scaled
from tests.helpers.server import Server, start_server

pytestmark = pytest.mark.nightly

POLICIES: Mapping[str, Mapping[str, list[str]]] = {
    "tenant": {
        "allow": ["/v1/key/*", "/v1/status", "/v1/log/audit*", "/v1/policy/read/tenant", "/version"],
        "deny": ["/v1/key/delete/*", "/v1/key/list/*", "/v1/key/generate/secret*", "/v1/key/encrypt/a"],
    },
    "narrow": {"allow": ["/v1/key/create/a*", "/v1/key/describe/alpha", "/v1/key/list/a*", "/v1/identity/*"]},
    "denied": {"allow": ["/v1/*", "*"], "deny": ["/v1/*"]},
    "odd": {"allow": ["/v1/key/*/alpha", "/v1/key/create/%61*", "/v1/key/create/a/../b", "", "/V1/*", "/v1/api/"]},
}
OPEN = {"/v1/ready"}
"""The paths that the configuration serves without authentication."""
NAMES = (
    "a",
    "alpha",
    "b",
    "secret",
    "secrets",
    "a/../b",
    "../delete/a",
    "%61",
    "A",
    "a*",
    "*",
    "a\x00",
    "tenant",
    "a?b",
    "ä",
)
SCHEMA = schemathesis.openapi.from_dict(make_app().openapi())
_RESULTS: list[Any] = list(SCHEMA.get_all_operations())
OPERATIONS = [result.ok() for result in _RESULTS]


# The oracle


@dataclass(frozen=True)
class Somebody:
    name: str
    has_certificate: bool = True
    is_admin: bool = False
    policy: str = ""


def matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


def expected(who: Somebody, path: str) -> str:
    """Return the right decision on a request for the decoded `path`: "served", "certificate" or "refused"."""
    if path in {"/version", "/v1/identity/self/describe"} or path in OPEN:
        return "served"
    if not who.has_certificate:
        return "certificate"
    if who.is_admin:
        return "served"
    policy = POLICIES.get(who.policy, {})
    if any(matches(pattern, path) for pattern in policy.get("deny", [])):
        return "refused"
    return "served" if any(matches(pattern, path) for pattern in policy.get("allow", [])) else "refused"


# The requests

WHO = [
    Somebody("admin", is_admin=True),
    *(Somebody(name, policy=name) for name in POLICIES),
    Somebody("stranger"),
    Somebody("nobody", has_certificate=False),
]


@dataclass
class Clients:
    server: Server
    of: Mapping[str, httpx.Client]


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    directory = tmp_path_factory.mktemp("oracle")
    credentials: dict[str, Credentials] = {who.name: make_credentials(directory, who.name) for who in WHO}
    policies = {name: {**rules, "identities": [credentials[name].identity]} for name, rules in POLICIES.items()}
    api = {path: {"skip_auth": "on"} for path in OPEN}
    server = start_server(directory, {"policy": policies, "api": api}, admin=credentials["admin"])
    with ExitStack() as stack:
        of = {who.name: server.client(credentials[who.name]) for who in WHO if who.has_certificate}
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        of["nobody"] = httpx.Client(base_url=server.url, verify=context, timeout=30.0)
        for client in of.values():
            stack.enter_context(client)
        yield Clients(server, of)
    assert server.stop() == 0


def send(client: httpx.Client, method: str, target: bytes, content: bytes | None) -> httpx.Response:
    """Send a request and read its answer, or only the beginning of a log stream."""
    request = client.build_request(method, "/", content=content, extensions={"target": target})
    response = client.send(request, stream=True)
    if response.headers.get("content-type") != "application/x-ndjson":
        response.read()
    response.close()
    return response


def verdict(response: httpx.Response) -> str:
    if response.status_code == 403:
        assert response.json() == {"message": "not authorized: insufficient permissions"}
        return "refused"
    if response.status_code == 400 and response.json()["message"] == "tls: client certificate is required":
        return "certificate"
    return "served"


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.label for operation in OPERATIONS])
def test_server_refuses_exactly_what_the_protocol_refuses(clients: Clients, operation: Any) -> None:
    @scaled(20)
    @given(case=operation.as_strategy(), name=st.sampled_from(NAMES), own=st.booleans(), who=st.sampled_from(WHO))
    def check(case: Any, name: str, own: bool, who: Somebody) -> None:
        path = operation.path
        for parameter, generated in case.path_parameters.items():
            path = path.replace(f"{{{parameter}}}", quote(name, safe="") if own else generated)
        content = None if isinstance(case.body, NotSet) else json.dumps(case.body).encode()
        response = send(clients.of[who.name], operation.method.upper(), path.encode(), content)
        if response.status_code == 307:
            assert "/." in path
            return
        assert verdict(response) == expected(who, unquote(path)), (who.name, path, response.text)
        assert response.status_code not in {404, 405, 500} or "does not exist" in response.text
        if response.headers.get("content-type") == "application/json":
            operation.validate_response(response)

    check()
